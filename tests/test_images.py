"""Every good upload keeps what it says, and what is saved can be read again."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import PHOTO, RAMP, RAMP8, SIDE, encoded, frames
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from cdd_core.images import ImageError, open_image, original_size, to_disparity, to_picture, to_pil
from cdd_core.png import read_parameters, save_disparity_png, save_png

UNIT = torch.from_numpy(RAMP / 65535).float()

# What a depth map keeps

GREY = {
    "8-bit PNG": (encoded(Image.fromarray(RAMP8)), 1 / 255),
    "16-bit PNG": (encoded(Image.fromarray(RAMP)), 1e-6),
    "16-bit TIFF": (encoded(Image.fromarray(RAMP), "TIFF"), 1e-6),
    "16-bit big-endian TIFF": (encoded(Image.fromarray(RAMP.astype(">u2")), "TIFF"), 1e-6),
    "32-bit TIFF": (encoded(Image.fromarray(RAMP.astype(np.int32) * 30_000 - 10**9), "TIFF"), 1e-6),
    "float TIFF": (encoded(Image.fromarray(RAMP.astype(np.float32) / 7e6), "TIFF"), 1e-6),
    "portable float map": (b"Pf\n64 64\n-1.0\n" + RAMP[::-1].astype("<f4").tobytes(), 1e-6),
    "16-bit PGM": (b"P5\n64 64\n65535\n" + RAMP.astype(">u2").tobytes(), 1e-6),
    "RGB": (encoded(Image.fromarray(RAMP8).convert("RGB")), 1 / 255),
    "RGBA": (encoded(Image.fromarray(RAMP8).convert("RGBA")), 1 / 255),
    "LA": (encoded(Image.fromarray(RAMP8).convert("LA")), 1 / 255),
    "palette PNG": (encoded(Image.fromarray(RAMP8).convert("P")), 1 / 255),
    "GIF": (encoded(Image.fromarray(RAMP8), "GIF"), 1 / 255),
    "JPEG": (encoded(Image.fromarray(RAMP8), "JPEG", quality=95), 0.03),
    "CMYK JPEG": (encoded(Image.fromarray(RAMP8).convert("RGB").convert("CMYK"), "JPEG", quality=95), 0.03),
    "lossless WebP": (encoded(Image.fromarray(RAMP8).convert("RGB"), "WEBP", lossless=True), 1 / 255),
    "BMP": (encoded(Image.fromarray(RAMP8), "BMP"), 1 / 255),
}


@pytest.mark.parametrize("name", GREY)
def test_every_kind_of_file_shows_the_same_ramp(name: str, tmp_path: Path) -> None:
    content, tolerance = GREY[name]
    path = tmp_path / "upload"
    path.write_bytes(content)
    for source in (content, path, Image.open(BytesIO(content))):
        disparity = to_disparity(open_image(source), SIDE)
        assert disparity.shape == (1, 1, SIDE, SIDE)
        assert disparity.dtype == torch.float32
        assert disparity.min() == 0
        assert disparity.max() == 1
        torch.testing.assert_close(disparity[0, 0], UNIT, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.float16, np.float64]
)
def test_arrays_of_any_number_type(dtype: type) -> None:
    levels = RAMP8 if np.dtype(dtype).itemsize == 1 else RAMP >> 1
    disparity = to_disparity(open_image(levels.astype(dtype)), SIDE)
    torch.testing.assert_close(disparity[0, 0], UNIT, atol=1 / 255, rtol=0)
    assert torch.equal(disparity, to_disparity(open_image(levels.astype(dtype)[..., None]), SIDE))


@pytest.mark.parametrize("name", ["16-bit PNG", "float TIFF", "32-bit TIFF", "16-bit big-endian TIFF"])
def test_more_than_8_bits_survive(name: str) -> None:
    assert to_disparity(open_image(GREY[name][0]), SIDE).unique().numel() > 4000


def test_one_bit_pictures() -> None:
    half = np.zeros((SIDE, SIDE), dtype=bool)
    half[SIDE // 2 :] = True
    for source in (encoded(Image.fromarray(half)), half):
        assert torch.equal(to_disparity(open_image(source), SIDE)[0, 0], torch.from_numpy(half).float())


def test_colours_count_by_luminance_without_rounding() -> None:
    colours = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    colours[:, :, 0] = np.arange(SIDE)
    colours[0, 0] = 255, 255, 255
    seen = to_disparity(open_image(colours), SIDE)[0, 0, 1]
    torch.testing.assert_close(seen, 0.299 * torch.arange(SIDE) / 255, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["8-bit PNG", "16-bit PNG", "float TIFF", "RGB"])
def test_inverting_twice_is_the_identity(name: str) -> None:
    plain = to_disparity(open_image(GREY[name][0]), SIDE)
    inverted = to_disparity(open_image(GREY[name][0]), SIDE, invert=True)
    torch.testing.assert_close(inverted, 1 - plain, atol=1e-6, rtol=0)
    again = to_disparity(open_image(inverted[0, 0].numpy()), SIDE, invert=True)
    torch.testing.assert_close(again, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("invert", [False, True])
def test_transparent_parts_are_far(invert: bool) -> None:
    alpha = np.full((SIDE, SIDE), 255, dtype=np.uint8)
    alpha[:, :20] = 0
    picture = Image.merge("LA", [Image.fromarray(RAMP8 // 2 + 60), Image.fromarray(alpha)])
    for image in (picture, picture.convert("RGBA")):
        disparity = to_disparity(open_image(encoded(image)), SIDE, invert=invert)[0, 0]
        assert (disparity[:, :20] == 0).all()
        assert (disparity[:, 20:] > 0.1).all()
        assert disparity.max() == 1


def test_a_transparent_grey_level_is_far() -> None:
    content = encoded(Image.fromarray(RAMP8), transparency=255)
    disparity = to_disparity(open_image(content), SIDE)[0, 0]
    assert (disparity[torch.from_numpy(RAMP8 == 255)] == 0).all()


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, -3.4e38, 3.4e38])
@pytest.mark.parametrize("invert", [False, True])
def test_holes_are_far(hole: float, invert: bool) -> None:
    depth = RAMP.astype(np.float32)
    depth[20:30, 20:30] = hole
    for source in (depth, encoded(Image.fromarray(depth), "TIFF")):
        disparity = to_disparity(open_image(source), SIDE, invert=invert)[0, 0]
        assert (disparity[20:30, 20:30] == 0).all()
        assert disparity.isfinite().all()
        assert disparity.min() == 0
        assert disparity.max() == 1
        outside = 1 - UNIT[40:] if invert else UNIT[40:]
        torch.testing.assert_close(disparity[40:], outside, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["TIFF", "MPO"])
def test_of_several_pages_the_first_is_taken(kind: str) -> None:
    first = to_disparity(open_image(frames(kind, 2)), SIDE)
    torch.testing.assert_close(first[0, 0], UNIT, atol=0.03, rtol=0)


@pytest.mark.parametrize("shape", [(64, 160), (160, 64), (64, 65)])
def test_the_middle_square_is_used(shape: tuple[int, int]) -> None:
    wide = np.full(shape, 60_000, dtype=np.uint16)
    top, left = (shape[0] - SIDE) // 2, (shape[1] - SIDE) // 2
    wide[top : top + SIDE, left : left + SIDE] = RAMP
    torch.testing.assert_close(to_disparity(open_image(wide), SIDE)[0, 0], UNIT, atol=1e-6, rtol=0)


def test_shrinking_averages_and_growing_stays_in_range() -> None:
    columns = np.where(np.arange(256) % 2 == 0, 20_000, 40_000).astype(np.uint16)
    stripes = np.tile(columns, (256, 1))
    stripes[128:] = 65_535
    stripes[:16] = 0
    middle = to_disparity(open_image(stripes), 32)[0, 0, 6:10, 4:-4]
    torch.testing.assert_close(middle, torch.full_like(middle, 30_000 / 65_535), atol=0.02, rtol=0)
    grown = to_disparity(open_image(RAMP), 256)
    assert grown.min() == 0
    assert grown.max() == 1


def test_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        to_disparity(Image.fromarray(RAMP8), 0)


# Upright, whole, unchanged


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG 16-bit", "TIFF float"])
def test_exif_orientation_is_applied_once(orientation: int, kind: str) -> None:
    levels = {"PNG 16-bit": RAMP[:32], "TIFF float": RAMP[:32].astype(np.float32)}.get(kind, RAMP8[:32])
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(levels))
    content = encoded(picture, kind.split()[0], exif=exif)
    upright = open_image(content)
    assert upright.size == ((32, 64) if orientation >= 5 else (64, 32))
    if kind != "JPEG":
        expected = ImageOps.exif_transpose(Image.open(BytesIO(content)))
        assert np.array_equal(np.array(upright), np.array(expected))
    assert np.array_equal(np.array(open_image(upright)), np.array(upright))


@pytest.mark.parametrize("orientation", [1, 6])
def test_of_a_large_photo_no_more_is_decoded_than_is_needed(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = PHOTO.resize((640, 480), Image.Resampling.BICUBIC)
    content = encoded(large, "JPEG", quality=95, exif=exif)
    whole, part = open_image(content), open_image(content, enough=100)
    assert original_size(part) == original_size(whole) == whole.size == ((640, 480) if orientation == 1 else (480, 640))
    assert part.size == tuple(side // 4 for side in whole.size), "an eighth would be less than asked for"
    assert (to_picture(part, 64) - to_picture(whole, 64)).abs().max() < 0.05
    assert open_image(encoded(large), enough=100).size == large.size, "other kinds have no such short cut"
    with pytest.raises(ImageError, match="megapixels"):
        open_image(content, largest=640 * 480 // 4 - 1, enough=100)
    assert open_image(content, largest=640 * 480 // 4, enough=100).size == part.size


def test_a_broken_exif_block_does_not_cost_the_picture() -> None:
    content = encoded(PHOTO, "JPEG", exif=b"Exif\0\0not an exif block at all")
    assert open_image(content).size == (SIDE, SIDE)


def test_the_given_picture_is_left_alone() -> None:
    picture = Image.fromarray(RAMP8)
    opened = open_image(picture)
    opened.putpixel((0, 0), 99)
    assert picture.getpixel((0, 0)) == 0


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pictures_become_tensors_and_come_back(mode: str) -> None:
    picture = PHOTO.convert(mode)
    levels = torch.from_numpy(np.array(picture)).float() / 255
    tensor = levels.permute(2, 0, 1) if mode == "RGB" else levels[None]
    back = to_pil(tensor)
    assert back.mode == mode
    assert np.array_equal(np.array(back), np.array(picture))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
def test_colours_are_meant_as_their_profile_says(mode: str) -> None:
    """Here by one in which red and green have changed places."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = plain.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)
    red, green, blue = PHOTO.split()
    file = encoded(Image.merge("RGB", (green, red, blue)).convert(mode), "TIFF", icc_profile=swapped)
    seen, other = to_picture(open_image(file), SIDE), to_picture(PHOTO.convert(mode), SIDE)
    if mode == "CMYK":  # not what the profile is of
        other = to_picture(Image.merge("RGB", (green, red, blue)), SIDE)
    torch.testing.assert_close(seen, other, atol=2 / 255, rtol=0)
    broken = encoded(PHOTO.convert(mode), "TIFF", icc_profile=b"broken")
    torch.testing.assert_close(to_picture(open_image(broken), SIDE), to_picture(PHOTO, SIDE), atol=1e-6, rtol=0)


def test_a_grey_picture_keeps_its_contrast_at_any_depth() -> None:
    """A foggy photo isn't a depth map, whose range means nothing."""
    fog = 100 + RAMP8 // 8
    coarse, fine = (to_picture(Image.fromarray(levels), SIDE) for levels in (fog, fog.astype(np.uint16) * 257))
    torch.testing.assert_close(fine, coarse, atol=1e-6, rtol=0)


def test_to_pil_rounds_and_clamps() -> None:
    values = torch.tensor([[[0.999, 127.6 / 255, -0.2, 1.3]]])
    assert np.array(to_pil(values)).tolist() == [[255, 128, 0, 255]]
    assert np.array(to_pil(values.bfloat16())).tolist()[0][2:] == [0, 255]
    for shape in ((4, 8, 8), (8, 8), (1, 3, 8, 8)):
        with pytest.raises(ValueError, match="shape"):
            to_pil(torch.zeros(shape))


# Files that remember

REMEMBERED = {
    "prompt": 'ein See im Nebel, 雪の山, "quoted" \\ \0 \n 🌄',
    "half": "\ud83c",
    "steps": 4,
    "guidance": 1.5,
    "times": [999, 749],
    "inner": {"none": None, "yes": True},
}


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_parameters_survive(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RAMP) if mode == "I;16" else PHOTO.convert(mode)
    path = tmp_path / "new" / "final.png"
    save_png(image, path, REMEMBERED)
    with Image.open(path) as saved:
        assert read_parameters(saved) == REMEMBERED
        assert saved.mode == mode
        assert np.array_equal(np.array(saved), np.array(image))
    assert read_parameters(open_image(path)) == REMEMBERED
    assert b"iTXtparameters\0" in path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["final.png"]


def test_parameters_survive_being_saved_again_as_gradio_does(tmp_path: Path) -> None:
    save_png(PHOTO, tmp_path / "a.png", REMEMBERED)
    image = open_image(tmp_path / "a.png")
    info = PngInfo()
    info.add_text("parameters", image.info["parameters"])
    assert read_parameters(open_image(encoded(image, pnginfo=info))) == REMEMBERED


@pytest.mark.parametrize("text", [None, "masterpiece, Steps: 20, Sampler: Euler a", "[1, 2]", "3", "[" * 100_000])
def test_other_programs_notes_are_not_ours(text: str | None, tmp_path: Path) -> None:
    info = PngInfo()
    if text is not None:
        info.add_text("parameters", text)
    assert read_parameters(open_image(encoded(PHOTO, pnginfo=info))) is None
    save_png(PHOTO, tmp_path / "plain.png")
    assert read_parameters(open_image(tmp_path / "plain.png")) is None


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "final.png"
    save_png(PHOTO, path, {"n": 1})
    for image, parameters, error in (
        (PHOTO, {"path": path}, TypeError),
        (PHOTO, {"loss": float("nan")}, ValueError),
        (Image.fromarray(UNIT.numpy()), None, OSError),
    ):
        with pytest.raises(error):
            save_png(image, path, parameters)
    assert read_parameters(open_image(path)) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["final.png"]


def test_disparity_round_trips_at_16_bits(tmp_path: Path) -> None:
    save_disparity_png(UNIT[None], tmp_path / "depth.png")
    with Image.open(tmp_path / "depth.png") as image:
        assert image.mode == "I;16"
        assert np.array_equal(np.array(image), RAMP)
    disparity = to_disparity(open_image(tmp_path / "depth.png"), SIDE)
    torch.testing.assert_close(disparity[0, 0], UNIT, atol=1e-6, rtol=0)
    for shape in ((3, 8, 8), (8, 8), (1, 1, 8, 8)):
        with pytest.raises(ValueError, match="shape"):
            save_disparity_png(torch.zeros(shape), tmp_path / "x.png")


def test_parameters_are_plain_json(tmp_path: Path) -> None:
    save_png(PHOTO, tmp_path / "a.png", {"prompt": "See"})
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.info["parameters"]) == {"prompt": "See"}
