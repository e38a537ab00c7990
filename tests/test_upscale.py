"""Super-resolution of uploads of any size: shapes, squares, seeds, degradation on request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import PHOTO
from PIL import Image

from cdd_core import inference
from cdd_core.inference import sample
from cdd_core.loading import Model, load
from cdd_core.sampler import LatentStep
from cdd_core.tiles import Tiling
from cdd_core.uploads import MOST_TILES, prepare


@pytest.fixture(scope="module")
def model(family: Path, device: torch.device) -> Model:
    return load(family, "upscale", "undistilled", device)


def upload(width: int, height: int) -> Image.Image:
    return PHOTO.resize((width, height), Image.Resampling.BICUBIC)


# The tiny models draw 32 pixels from 8, so uploads below 32 pixels are enlarged as they are.
@pytest.mark.parametrize(
    ("uploaded", "drawn"),
    [
        ((16, 16), (64, 64)),
        ((20, 31), (80, 124)),
        ((32, 16), (128, 64)),
        ((64, 64), (128, 128)),
        ((400, 200), (128, 64)),
    ],
)
def test_results_are_four_times_larger_up_to_a_limit(model: Model, uploaded: tuple[int, int], drawn: tuple[int, int]):
    steps = list(sample(model, upload(*uploaded), steps=2, seed=0, largest=MOST_TILES * model.size))
    assert [step.image.size for step in steps] == [drawn, drawn]
    assert max(drawn) <= MOST_TILES * model.size


def test_very_long_pictures_lose_their_ends(model: Model):
    assert prepare(model, upload(640, 20), largest=MOST_TILES * model.size).shape == (1, 3, 32, 128)


def test_large_pictures_are_enlarged_as_far_as_one_asks(model: Model):
    assert prepare(model, upload(100, 60), largest=400).shape == (1, 3, 240, 400)
    assert prepare(model, upload(100, 60), largest=1).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("degradation", [0.0, 0.5])
@pytest.mark.parametrize("uploaded", [(16, 24), (20, 16), (64, 48), (24, 18)])
def test_pictures_keep_their_shape(model: Model, uploaded: tuple[int, int], degradation: float):
    """Of one too small as of one too large; a few columns may be lost at the edge."""
    height, width = prepare(model, upload(*uploaded), degradation=degradation).shape[-2:]
    assert width / height == pytest.approx(uploaded[0] / uploaded[1], rel=0.1)


def test_squares_in_one_batch_or_several_are_the_same_picture(model: Model, monkeypatch: pytest.MonkeyPatch):
    calls, photo = [], upload(20, 31)
    handle = model.denoiser.unet.register_forward_hook(lambda *_: calls.append(1))
    together = list(sample(model, photo, steps=2, seed=3))
    monkeypatch.setattr(inference, "TOGETHER", 2 * model.size**2)
    apart = list(sample(model, photo, steps=2, seed=3))
    handle.remove()
    assert len(calls) > 2 * 2 + 2
    for one, other in zip(together, apart, strict=True):
        assert np.abs(np.asarray(one.image, int) - np.asarray(other.image, int)).max() <= 1
        assert (one.t, one.nfe) == (other.t, other.nfe)


def test_what_the_model_sees_is_the_upload_enlarged(model: Model):
    seen = prepare(model, upload(16, 24))[0].permute(1, 2, 0)
    expected = np.asarray(upload(16, 24).resize((64, 96), Image.Resampling.BICUBIC)) / 255
    assert abs(seen.numpy() - expected).mean() < 0.01


def test_degradation_damages_what_the_model_sees(model: Model):
    views = [prepare(model, upload(64, 64), degradation=strength) for strength in (0.0, 0.05, 1.0)]
    assert {view.shape[-2:] for view in views} == {(128, 128), (64, 64)}
    clean = prepare(model, upload(16, 16))
    harm = [float((view - clean).square().mean()) for view in views[1:]]
    assert harm[0] < harm[1]
    assert torch.equal(views[2], prepare(model, upload(64, 64), degradation=1.0))
    with pytest.raises(ValueError, match="between 0 and 1"):
        prepare(model, upload(64, 64), degradation=2.0)


def test_all_squares_are_cut_from_one_draw_of_noise(model: Model, monkeypatch: pytest.MonkeyPatch):
    """At the start and at every re-noising; so they begin alike where they overlap (test_tiles)."""
    drawn, sample_from = [], inference._sample_from

    def watched(*given: object) -> Iterator[LatentStep]:
        *before, noise, how = given
        return sample_from(*before, lambda: drawn.append(noise()) or drawn[-1], how)

    monkeypatch.setattr(inference, "_sample_from", watched)
    list(sample(model, upload(16, 24), steps=3, seed=5, sampler="renoise"))
    tiling, generator = Tiling(96, 64, model.size, model.pixels_per_latent), torch.Generator().manual_seed(5)
    assert len(drawn) == 3, "the start, and two re-noisings"
    for noise in drawn:
        assert torch.equal(noise, tiling.noise(noise.shape[1], generator))
        assert not torch.equal(noise[0], noise[1])


def test_same_seed_same_picture_and_another_with_another(model: Model):
    flat = Image.new("RGB", (24, 24), "grey")
    first, again, other = (list(sample(model, flat, steps=1, seed=seed))[-1].image for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
    pixels = np.asarray(first)
    assert not np.array_equal(pixels[:12, :12], pixels[-12:, -12:])
