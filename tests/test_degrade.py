"""Degradations: seeded, within range, stronger where asked for, and harmless at strength 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cdd_core.data.degrade import _Dice, _noisy, degrade, enlarged
from cdd_core.data.photos import Crops
from cdd_core.data.small import Small


def picture(seed: int = 0, side: int = 64) -> Tensor:
    """Smooth with a few edges, as pictures are."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    return enlarged(coarse, (side, side))[0].round(decimals=1)


def damaged(strength: float, seed: int, scale: int = 4) -> Tensor:
    return degrade(picture(), scale, strength, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_results_are_small_pictures(strength: float):
    for seed in range(20):
        small = damaged(strength, seed)
        assert small.shape == (3, 16, 16)
        assert small.min() >= 0
        assert small.max() <= 1
        assert torch.isfinite(small).all()


def test_pictures_need_not_be_square():
    wide = picture(side=96)[:, :48]
    for seed in range(5):
        assert degrade(wide, 4, 1.0, torch.Generator().manual_seed(seed)).shape == (3, 12, 24)


def test_strength_zero_only_shrinks():
    expected = enlarged(picture()[None], (16, 16))[0]
    for seed in (0, 1):
        torch.testing.assert_close(damaged(0.0, seed), expected, rtol=0, atol=0)


def test_the_seed_decides():
    assert torch.equal(damaged(1.0, 3), damaged(1.0, 3))
    assert not torch.equal(damaged(1.0, 3), damaged(1.0, 4))


def test_more_strength_does_more_harm():
    clean = damaged(0.0, 0)
    harm = [sum(float((damaged(s, seed) - clean).square().mean()) for seed in range(40)) for s in (0.1, 0.4, 1.0)]
    assert harm[0] < harm[1] < harm[2]


def test_a_flat_picture_stays_as_bright_on_average():
    grey = torch.full((3, 64, 64), 0.5)
    means = [degrade(grey, 4, 1.0, torch.Generator().manual_seed(seed)).mean() for seed in range(40)]
    assert abs(float(torch.stack(means).mean()) - 0.5) < 0.02


def test_half_of_the_noise_is_counted_light_whose_variance_grows_with_it():
    dark, light = torch.full((1, 3, 48, 48), 0.25), torch.full((1, 3, 48, 48), 0.75)
    ratios = []
    for seed in range(60):
        noisy = [_noisy(x, _Dice(torch.Generator().manual_seed(seed)), 0.06) for x in (dark, light)]
        assert [float(x.mean()) for x in noisy] == pytest.approx([0.25, 0.75], abs=0.01)
        ratios.append(float(noisy[1].var() / noisy[0].var()))
    counted = [ratio for ratio in ratios if ratio > 2]
    assert counted == pytest.approx([3.0] * len(counted), rel=0.2)
    assert all(ratio == pytest.approx(1.0, rel=0.2) for ratio in ratios if ratio <= 2)
    assert 20 <= len(counted) <= 40


@pytest.mark.parametrize(("scale", "strength", "words"), [(4, 1.5, "between 0 and 1"), (5, 0.5, "5 times smaller")])
def test_what_makes_no_sense_is_refused(scale: int, strength: float, words: str):
    with pytest.raises(ValueError, match=words):
        damaged(strength, 0, scale)


def test_a_picture_is_shown_the_same_in_any_set():
    """Row k depends on (seed, k) and its picture, not on how many others there are."""
    images = np.stack([(picture(k) * 255).byte().numpy() for k in range(3)])
    all_of_them, two = Small(Crops(images), 0), Small(Crops(images[:2]), 0)
    assert all_of_them[1].shape == (3, 16, 16)
    assert torch.equal(all_of_them[1], two[1])
    assert not torch.equal(all_of_them[1], Small(Crops(images), 1)[1])
    assert not torch.equal(all_of_them[0], all_of_them[1])


def test_some_pictures_are_only_made_small():
    """As uploads are, unless someone asks for damage; a tenth of them."""
    images = np.repeat((picture(0) * 255).byte().numpy()[None], 200, 0)
    many, plain = Small(Crops(images), 0), Small(Crops(images[:1]), 0, strength=0.0)[0]
    share = np.mean([torch.equal(many[row], plain) for row in range(200)])
    assert 0.05 < share < 0.2
