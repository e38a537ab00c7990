"""Every bad upload is refused in one sentence, before it can do harm."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pictures import PHOTO, RAMP, SIDE, encoded, frames
from PIL import Image

from cdd_core.images import LARGEST_PIXELS, ImageError, open_image, to_disparity

SOUND = {kind: encoded(PHOTO, kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM")}
NOT_PICTURES = {
    "empty": b"",
    "text": b"this is a shopping list\n" * 20,
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>',
    "html": b"<!doctype html><title>404</title>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n",
    "zip": b"PK\x03\x04" + bytes(60),
    "png signature alone": b"\x89PNG\r\n\x1a\n",
}


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to no pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 16)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def assert_helpful(message: str) -> None:
    """One sentence, for a person, that gives nothing of the machine away."""
    assert message[0].isupper() or message[0] == "'"
    assert message.endswith(".")
    assert ". " not in message
    assert "\n" not in message
    assert len(message) > 30
    for leak in ("/", "\\", "Traceback", "Error", "0x", "PIL"):
        assert leak not in message


def refused(source: object) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(source)
    assert_helpful(str(caught.value))
    return str(caught.value)


@pytest.mark.parametrize("name", NOT_PICTURES)
def test_what_is_no_picture_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    path.write_bytes(NOT_PICTURES[name])
    for source in (NOT_PICTURES[name], path, str(path)):
        refused(source)


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    assert open_image(SOUND[kind]).size == (SIDE, SIDE)
    refused(SOUND[kind][: int(share * len(SOUND[kind]))])


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    content = bytearray(SOUND["PNG"])
    content[len(content) // 2] ^= 1
    assert "damaged" in refused(bytes(content))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SOUND)
def test_no_damage_escapes_as_another_error(kind: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        content = np.frombuffer(SOUND[kind], dtype=np.uint8).copy()
        near_header = rng.integers(0, 200, 4)
        anywhere = rng.integers(0, len(content), 4)
        content[np.concatenate([near_header, anywhere])] = rng.integers(0, 256, 8)
        try:
            to_disparity(open_image(content.tobytes()), 16)
        except ImageError as error:
            assert_helpful(str(error))


@pytest.mark.parametrize("size", [(1, 1), (15, 15), (400, 8), (8, 400)])
def test_tiny_pictures_are_refused(size: tuple[int, int]) -> None:
    assert f"{size[0]} x {size[1]}" in refused(encoded(Image.new("L", size)))
    refused(Image.new("L", size))
    refused(np.zeros(size[::-1], dtype=np.uint8))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 10_000), (8192, 8193), (2**31 - 1, 2**31 - 1)])
def test_huge_pictures_are_refused_by_their_header(size: tuple[int, int]) -> None:
    content = header_only_png(*size)
    tracemalloc.start()
    message = refused(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "megapixels" in message
    assert peak < 1_000_000


def test_the_size_limit_does_not_lean_on_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Image.MAX_IMAGE_PIXELS
    refused(header_only_png(20_000, 20_000))
    assert before == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert "megapixels" in refused(header_only_png(20_000, 20_000))
    assert LARGEST_PIXELS == 8192 * 8192


def test_huge_arrays_and_pillow_pictures_are_refused_unread() -> None:
    wide = np.broadcast_to(np.uint8(1), (10_000, 10_000))
    assert "megapixels" in refused(wide)
    lazy = Image.open(BytesIO(header_only_png(9_000, 9_000)))
    assert "megapixels" in refused(lazy)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused_and_stills_are_not(kind: str) -> None:
    assert "frame" in refused(frames(kind, 3))
    assert "frame" in refused(Image.open(BytesIO(frames(kind, 3))))
    assert open_image(frames(kind, 1)).size == (SIDE, SIDE)


def test_missing_files_and_folders_are_named_without_their_path(tmp_path: Path) -> None:
    assert "'missing.png'" in refused(tmp_path / "missing.png")
    assert tmp_path.name in refused(tmp_path)
    refused("x" * 5000)
    with pytest.raises(ImageError):
        open_image("\0.png")


@pytest.mark.parametrize("shape", [(64,), (64, 64, 2), (2, 64, 64, 3), (0, 64), (64, 64, 5)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    refused(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("dtype", [np.complex64, object, "datetime64[s]", "U1"])
def test_arrays_of_no_numbers_are_refused(dtype: object) -> None:
    refused(np.zeros((64, 64), dtype=dtype))
    refused(np.zeros((64, 64, 3), dtype=np.float32))


def test_other_types_are_the_callers_mistake() -> None:
    with pytest.raises(TypeError, match="NoneType"):
        open_image(None)


FLAT_MAPS = {
    "black": np.zeros((SIDE, SIDE), dtype=np.uint8),
    "white 16-bit": np.full((SIDE, SIDE), 65535, dtype=np.uint16),
    "grey RGB": np.full((SIDE, SIDE, 3), 127, dtype=np.uint8),
    "transparent": np.zeros((SIDE, SIDE, 4), dtype=np.uint8),
    "third": np.full((SIDE, SIDE), 1 / 3, dtype=np.float32),
    "one value among holes": np.where(RAMP % 2 == 0, np.float32(5), np.float32(np.nan)),
    "all NaN": np.full((SIDE, SIDE), np.nan, dtype=np.float32),
    "all infinite": np.full((SIDE, SIDE), np.inf, dtype=np.float32),
    "one speck": np.pad(np.ones((1, 1), dtype=np.uint8), (1000, 999)),
}


@pytest.mark.parametrize("name", FLAT_MAPS)
def test_flat_and_empty_maps_are_refused(name: str) -> None:
    image = open_image(FLAT_MAPS[name])
    with pytest.raises(ImageError) as caught:
        to_disparity(image, 8, invert=name == "white 16-bit")
    assert_helpful(str(caught.value))


def test_unreadable_colours_are_refused() -> None:
    with pytest.raises(ImageError) as caught:
        to_disparity(open_image(encoded(Image.new("LAB", (SIDE, SIDE)), "TIFF")), SIDE)
    assert_helpful(str(caught.value))
