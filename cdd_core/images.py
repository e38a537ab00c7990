"""Any uploaded file as a tensor, and tensors back as pictures."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

# Only formats people save depth maps and photos in: Pillow's other readers (EPS starts a program) stay shut.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "AVIF")
SHRINKING = ("JPEG", "MPO")  # can be decoded at a fraction of their size
PAGED = ("TIFF", "MPO")  # more than one frame here means pages or a second lens, and the first one is the picture
WHOLE = "cdd whole"  # where a picture's info tells its size in the file
SMALLEST_SIDE = 16
LARGEST_PIXELS = 2**26
FLAT = 1e-4  # a map whose range shrinks to this share when it is resized was noise, not relief
SMALL = 64  # pixels a side on which colours are looked for
COLOURED = 0.08  # mean saturation of a picture in colour

NO_DEPTH = 1e30  # beyond are NaN, infinity and -3.4e38, with which map makers' programs mark holes

NOT_A_PICTURE = "This file is not a picture that can be read; save it as PNG, JPEG, WebP or TIFF and upload that."
DAMAGED = "This picture is damaged or was cut off on its way; save or download it again and upload the new file."
TOO_LARGE = "This picture has more than {} megapixels; upload a smaller version of it."
ANIMATED = "This picture is animated; save one frame of it as a still picture and upload that."
BAD_COLOURS = "The colours of this picture are stored in a way that can't be read; save it as an RGB or greyscale PNG."
BAD_ARRAY = (
    "This array is not a picture; use numbers of shape (H, W), or bytes (uint8) of shape (H, W, 3) or (H, W, 4)."
)
NO_VALUES = "This depth map holds no finite number at all; export it again and upload the new file."
FLAT_MAP = (
    "This depth map is one flat grey, which says nothing about near and far; upload one with light and dark parts."
)


class ImageError(ValueError):
    """A picture that can't be used. The message is one sentence for the person who brought it."""


def open_image(
    source: str | Path | bytes | Image.Image | np.ndarray, largest: int = LARGEST_PIXELS, enough: int | None = None
) -> Image.Image:
    """Decode a picture completely, turn it upright and make sure that it can be used.

    The mode stays as stored, so 16-bit and float maps keep their precision; 16-bit *colour* alone is read at 8 bits,
    all that Pillow offers. Of a file with several pages the first one is taken.

    Args:
        source: a path, the bytes of a file, a Pillow picture (left as it is), or an array: (H, W) of any real numbers,
            or uint8 of shape (H, W, 3) or (H, W, 4).
        largest: pixels, of which there may be so many.
        enough: pixels a side that do. Of a JPEG with twice as many or more, half, a quarter or an eighth of each side
            is decoded then, and ``largest`` may be exceeded fourfold; :func:`original_size` tells what it had.

    Raises:
        ImageError: not a picture, damaged, animated, below 16 pixels a side or above ``largest``. Size is judged from
            the header, before anything is decoded.
        TypeError: ``source`` is something else altogether.
    """
    if not isinstance(source, (str, Path, bytes, Image.Image, np.ndarray)):
        raise TypeError(f"a picture is a path, bytes, a Pillow picture or an array, not {type(source).__name__}")
    try:
        if isinstance(source, Image.Image):
            return _decode(source, largest)
        if isinstance(source, np.ndarray):
            return _decode(_from_array(source, largest), largest)
        with _file(source) as file:
            with Image.open(file, formats=FORMATS) as header:
                shrinks = enough is not None and header.format in SHRINKING
                most = largest * 4 if shrinks else largest
                _check_header(header, most)
                header.verify()
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                whole = image.size
                if shrinks:
                    image.draft(None, (enough, enough))
                return _noted(_decode(image, most), whole)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(TOO_LARGE.format(largest >> 20)) from None
    except UnidentifiedImageError:
        raise ImageError(NOT_A_PICTURE) from None
    except Exception as error:  # readers of broken files fail in every way there is
        raise ImageError(DAMAGED) from error


def original_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height that an opened picture had in its file, upright."""
    return picture.info.get(WHOLE, picture.size)


def _noted(picture: Image.Image, whole: tuple[int, int]) -> Image.Image:
    """The same, with what :func:`original_size` tells."""
    turned = (picture.width > picture.height) != (whole[0] > whole[1])
    picture.info[WHOLE] = whole[::-1] if turned else whole
    return picture


@contextmanager
def _file(source: str | Path | bytes) -> Iterator[BinaryIO]:
    """The bytes of an upload as an open file."""
    if isinstance(source, bytes):
        yield BytesIO(source)
        return
    path = Path(source)
    try:
        if path.is_dir():
            raise ImageError(f"{path.name!r} is a folder; choose a picture inside it.")
        # Opening a pipe or a device could wait for ever.
        file = path.open("rb") if path.is_file() else None
    except (OSError, ValueError) as error:
        raise ImageError(f"The file {path.name!r} can't be opened; check its name and permissions.") from error
    if file is None:
        raise ImageError(f"There is no file called {path.name!r} in that place; check the path.")
    with file:
        yield file


def _from_array(array: np.ndarray, largest: int) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    colour = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    if not colour and not (array.ndim == 2 and array.dtype.kind in "buif"):
        raise ImageError(BAD_ARRAY)
    _check_size(array.shape[1], array.shape[0], largest)
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype not in (np.uint8, np.uint16, np.int32):
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which to_disparity takes for a hole
            array = array.astype(np.float32)
    return Image.fromarray(np.ascontiguousarray(array))


def _check_size(width: int, height: int, largest: int) -> None:
    if min(width, height) < SMALLEST_SIDE:
        raise ImageError(
            f"This picture is only {width} x {height} pixels; upload one of at least {SMALLEST_SIDE} x {SMALLEST_SIDE}."
        )
    if width * height > largest:
        raise ImageError(TOO_LARGE.format(largest >> 20))


def _check_header(image: Image.Image, largest: int) -> None:
    _check_size(*image.size, largest)
    if getattr(image, "format", None) not in PAGED and getattr(image, "is_animated", False):
        raise ImageError(ANIMATED)


def _decode(image: Image.Image, largest: int) -> Image.Image:
    """An upright copy in memory."""
    _check_header(image, largest)
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        # A camera's broken EXIF block is no reason to refuse a sound picture.
        return image.copy()


def to_disparity(image: Image.Image, size: int, invert: bool = False) -> Tensor:
    """Read a picture as a depth map: how near every point is.

    The square in the middle is stretched so that its nearest point is 1 and its farthest 0, as MiDaS and Depth
    Anything maps are used. Colours count by their luminance. Transparent parts, and points that are NaN or infinite
    (holes of a depth sensor), are as far as the farthest.

    Args:
        image: from :func:`open_image`, in any mode.
        size: pixels a side of the result.
        invert: the map is dark where it is near.

    Returns:
        float32 in [0, 1], 1 is nearest, shape (1, 1, size, size).

    Raises:
        ImageError: the map is flat, holds no finite number, or its colours can't be read.
        ValueError: ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    values = _grey(_middle_square(image), far=255.0 if invert else 0.0)
    seen = values.abs() < NO_DEPTH
    if not seen.any():
        raise ImageError(NO_VALUES)
    if not seen.all():
        values = torch.where(seen, values, values[seen].max() if invert else values[seen].min())
    # Once at full size, where flatness is exact, and again after averaging has eaten into the extremes.
    values = _stretch(values, least=0.0)
    values = F.interpolate(values[None, None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    values = _stretch(values, least=FLAT)
    return (1 - values if invert else values).float()


def is_coloured(image: Image.Image) -> bool:
    """Whether a picture is a photo rather than a depth map, or a map in false colours: it isn't grey throughout."""
    if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"):
        return False
    small = image.convert("RGB").resize((SMALL, SMALL)).convert("HSV")
    return np.asarray(small)[..., 1].mean() / 255 > COLOURED


def to_picture(image: Image.Image, size: int) -> Tensor:
    """Read a picture as colours: the square in the middle, transparent parts on white, (1, 3, size, size) in [0, 1].

    Args:
        image: from :func:`open_image`, in any mode. Colours are taken to sRGB from the profile that comes with them;
            grey beyond 16 bits is stretched to full contrast.
        size: pixels a side of the result.

    Raises:
        ImageError: the colours can't be read, or a map holds no finite number.
        ValueError: ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    return _colours(_middle_square(image), size, size)


def to_small_picture(image: Image.Image, least: int, most: int) -> Tensor:
    """Likewise, but whole: (1, 3, H, W) with both sides between ``least`` and ``most``.

    Only pictures that are larger than ``most`` are made smaller, and only those smaller than ``least`` larger, both
    sides alike. Very long ones lose their ends.
    """
    ratio = most // least
    width, height = (min(side, ratio * min(image.size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    scale = max(min(1.0, most / max(width, height)), least / min(width, height))
    columns, rows = (min(most, max(least, round(side * scale))) for side in (width, height))
    return _colours(image.crop((left, top, left + width, top + height)), rows, columns)


def _colours(image: Image.Image, height: int, width: int) -> Tensor:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _grey(image, far=0.0)
        grey = torch.where(grey.abs() < NO_DEPTH, grey, 0.0)
        sixteen = image.mode != "F" and grey.min() >= 0 and grey.max() <= 65535
        colours = (grey / 65535 if sixteen else _stretch(grey, least=0.0)).float().expand(3, -1, -1)
    else:
        try:
            layers = _srgb(image.convert("RGBA") if image.has_transparency_data else image)
        except (ValueError, KeyError) as error:
            raise ImageError(BAD_COLOURS) from error
        if layers.mode == "RGBA":
            layers = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
        colours = torch.from_numpy(np.array(layers)).permute(2, 0, 1).float() / 255
    resized = F.interpolate(colours[None], size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1)


def _srgb(image: Image.Image) -> Image.Image:
    """RGB, or RGBA as it was, in the colours that screens and models mean by the numbers: phones save others."""
    wanted = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(image.info["icc_profile"]))
        found = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=wanted)
    except (KeyError, OSError, TypeError, ImageCms.PyCMSError):  # there is none, or it is broken or of another space
        found = None
    return image.convert(wanted) if found is None else found


def _middle_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _grey(image: Image.Image, far: float) -> Tensor:
    """Luminance in the picture's own units (0 to 255 for colours) over ``far``; shape (H, W)."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        exact = np.float64 if image.mode == "I" else np.float32
        return torch.from_numpy(np.array(image, dtype=exact))
    try:
        # Pillow goes from RGB to F without rounding, unlike from RGB to L.
        if not image.has_transparency_data:
            return torch.from_numpy(np.array(image.convert("RGB").convert("F")))
        image = image.convert("RGBA")
    except (ValueError, KeyError) as error:
        raise ImageError(BAD_COLOURS) from error
    alpha = torch.from_numpy(np.array(image.getchannel("A"), dtype=np.float32) / 255)
    opaque = torch.from_numpy(np.array(image.convert("RGB").convert("F")))
    return far + alpha * (opaque - far)


def _stretch(values: Tensor, least: float) -> Tensor:
    """Map [smallest, largest] to [0, 1].

    Raises:
        ImageError: largest and smallest are no more than ``least`` apart.
    """
    low, high = values.min(), values.max()
    if high - low <= least:
        raise ImageError(FLAT_MAP)
    return (values - low) / (high - low)


def to_pil(picture: Tensor) -> Image.Image:
    """A picture tensor as a Pillow picture, each value rounded to the nearest of 256 levels.

    Args:
        picture: in [0, 1] (clamped), shape (3, H, W) for RGB or (1, H, W) for greyscale.

    Raises:
        ValueError: another shape.
    """
    if picture.ndim != 3 or picture.shape[0] not in (1, 3):
        raise ValueError(f"a picture has shape (3, H, W) or (1, H, W), not {tuple(picture.shape)}")
    levels = (picture.detach().cpu().float().clamp(0, 1) * 255).round().byte()
    return Image.fromarray((levels[0] if len(levels) == 1 else levels.permute(1, 2, 0)).contiguous().numpy())
