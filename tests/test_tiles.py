"""Squares cover a picture of any size, and blending them gives it back."""

from __future__ import annotations

import pytest
import torch

from cdd_core.tiles import OVERLAP, Tiling

SIZES = [(32, 32), (33, 32), (40, 100), (97, 64), (32, 200), (128, 129)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_cut_and_blended_is_unchanged(height: int, width: int):
    tiling = Tiling(height, width, 32)
    picture = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    squares = tiling.cut(picture)
    assert squares.shape == (len(tiling.corners), 3, 32, 32)
    torch.testing.assert_close(tiling.blend(squares), picture, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_neighbours_overlap_by_a_quarter(height: int, width: int):
    for length in (height, width):
        starts = Tiling(height, width, 32)._starts(length)
        assert starts[0] == 0
        assert starts[-1] == length - 32
        assert all(
            0 < after - before <= 32 * (1 - OVERLAP) + 1 for before, after in zip(starts, starts[1:], strict=False)
        )


@pytest.mark.parametrize("unit", [4, 8])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 100), (36, 64), (128, 132)])
def test_overlapping_squares_begin_with_the_same_noise(height: int, width: int, unit: int):
    """Wherever they begin with a latent: all of them do, unless the picture's own size is no multiple of it."""
    tiling = Tiling(height, width, 32, unit)
    noise = tiling.noise(2, torch.Generator().manual_seed(0))
    assert noise.shape == (len(tiling.corners), 2, 32 // unit, 32 // unit)
    assert torch.equal(noise, tiling.noise(2, torch.Generator().manual_seed(0)))
    whole = torch.full((2, height // unit, width // unit), torch.nan)
    for own, (top, left) in zip(noise, tiling.corners, strict=True):
        assert not (top % unit and top != height - 32)
        assert not (left % unit and left != width - 32)
        if top % unit or left % unit:
            continue
        place = (..., slice(top // unit, (top + 32) // unit), slice(left // unit, (left + 32) // unit))
        known = ~whole[place].isnan()
        assert torch.equal(whole[place][known], own[known])
        whole[place] = own
    if height % unit == width % unit == 0:
        assert not whole.isnan().any()


def test_a_seam_is_a_slope():
    """Two squares that disagree meet without a step."""
    tiling = Tiling(32, 56, 32)
    squares = torch.stack([torch.zeros(1, 32, 32), torch.ones(1, 32, 32)])
    line = tiling.blend(squares)[0, 0, 16]
    assert line[0] == 0
    assert line[-1] == 1
    assert line.diff().min() >= 0
    assert line.diff().max() < 0.3


def test_a_picture_smaller_than_a_square_is_refused():
    with pytest.raises(ValueError, match="no room"):
        Tiling(31, 64, 32)
