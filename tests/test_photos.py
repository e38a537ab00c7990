"""Photos as pictures to work on: whatever their mode, size and orientation, colours stay what they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import PHOTO, RAMP, SIDE, encoded
from PIL import Image

from cdd_core.images import ImageError, open_image, to_picture, to_pil

FILES = {
    "PNG": encoded(PHOTO),
    "RGBA": encoded(PHOTO.convert("RGBA")),
    "TIFF": encoded(PHOTO, "TIFF"),
    "WebP": encoded(PHOTO, "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", FILES)
def test_at_its_own_size_a_photo_is_unchanged(name: str) -> None:
    picture = to_picture(open_image(FILES[name]), SIDE)
    assert picture.shape == (1, 3, SIDE, SIDE)
    np.testing.assert_array_equal(np.asarray(to_pil(picture[0])), np.asarray(PHOTO))


def test_grey_photos_have_three_equal_channels() -> None:
    picture = to_picture(open_image(encoded(PHOTO.convert("L"))), SIDE)[0]
    assert torch.equal(picture[0], picture[1])
    assert torch.equal(picture[0], picture[2])


def test_transparent_parts_are_white() -> None:
    layer = PHOTO.convert("RGBA")
    layer.putalpha(0)
    assert torch.all(to_picture(open_image(encoded(layer)), SIDE) == 1)


def test_sixteen_bits_are_stretched_not_clipped() -> None:
    picture = to_picture(open_image(encoded(Image.fromarray(RAMP))), SIDE)[0, 0]
    assert picture.min() == 0
    assert picture.max() == 1
    assert len(picture.unique()) > 1000


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (40, 64)])
def test_the_middle_square_of_any_shape_is_used(size: tuple[int, int]) -> None:
    wide = Image.new("RGB", size, "red")
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    wide.paste("blue", (left, top, left + side, top + side))
    picture = to_picture(wide, 32)
    torch.testing.assert_close(picture.mean((0, 2, 3)), torch.tensor([0.0, 0.0, 1.0]), rtol=0, atol=1e-6)


def test_shrinking_does_not_alias() -> None:
    """Stripes finer than the new pixels become even grey."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    picture = to_picture(Image.fromarray(stripes), 32)
    assert (picture[..., 4:-4, 4:-4] - 0.5).abs().max() < 0.02


def test_what_is_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        to_picture(PHOTO, 0)


def test_a_map_without_numbers_is_refused() -> None:
    with pytest.raises(ImageError):
        to_picture(open_image(np.full((32, 32), np.nan, np.float32)), 32)
