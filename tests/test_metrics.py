"""The figures of the tables against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdd_core.data.augment import gaussian_blur
from cdd_core.evaluation import metrics
from cdd_core.evaluation.probe import Probe
from cdd_core.evaluation.runner import relative


def test_frechet_of_known_normals():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    b = 2 * torch.randn(20_000, 3, generator=generator, dtype=torch.float64) + 1
    # |mu|^2 = 3 and (1 - 2)^2 for each of three directions.
    assert metrics.frechet(a, b) == pytest.approx(6.0, rel=0.05)
    assert metrics.frechet(a, b) == pytest.approx(metrics.frechet(b, a), rel=1e-9)
    assert metrics.frechet(a, a) == pytest.approx(0.0, abs=1e-9)


def test_frechet_of_correlated_normals_matches_the_matrix_root():
    from scipy import linalg

    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)))
    b = torch.from_numpy(rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)) + rng.normal(size=4))
    ca, cb = torch.cov(a.T).numpy(), torch.cov(b.T).numpy()
    root = linalg.sqrtm(ca @ cb).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(ca + cb - 2 * root)
    assert metrics.frechet(a, b) == pytest.approx(expected, rel=1e-6)


def test_excess_of_true_renders_is_zero():
    points = torch.randn(300, 8, dtype=torch.float64)
    reference = torch.randn(300, 8, dtype=torch.float64)
    assert metrics.excess(points, points, reference) == 0


def test_feature_space_whitens_the_reference_and_sees_a_wrong_condition():
    generator = torch.Generator().manual_seed(0)
    statistics = [
        torch.randn(400, 2 * width, generator=generator) @ torch.randn(2 * width, 2 * width, generator=generator)
        for width in (32, 48, 64, 96)
    ]
    codes = torch.stack([torch.randint(k, (400,), generator=generator) for k in (4, 4, 2, 2)], 1)
    # Conditions that the pictures depend on.
    statistics[0][:, 0] += 400 * codes[:, 0]
    depth = torch.rand(400, 1, 64, 64, generator=generator)
    space = metrics.FeatureSpace.fit(statistics)
    points = space.points(statistics, codes, depth)
    assert points.shape == (400, metrics.FEATURES)
    assert metrics.FEATURES <= 64
    own = points[:, : sum(metrics.SCALE_FEATURES)]
    torch.testing.assert_close(own.std(0), torch.ones(own.shape[1], dtype=own.dtype), rtol=0.01, atol=0.01)
    wrong = [s[torch.randperm(400, generator=generator)] for s in statistics]
    shuffled = space.points(wrong, codes, depth)
    assert metrics.frechet(shuffled, points) > 0.1


def test_roughness_tells_a_blur_where_level_does_not():
    probe, generator = Probe().eval(), torch.Generator().manual_seed(0)
    pictures = torch.rand(4, 3, 128, 128, generator=generator)
    blurred = gaussian_blur(pictures.flatten(0, 1)[:, None], torch.ones(12)).view_as(pictures)
    with torch.no_grad():
        sharp, soft, flat = (metrics.scale_statistics(probe(p))[0] for p in (pictures, blurred, pictures * 0))
    channels = sharp.shape[1] // 3
    assert torch.all(soft[:, 2 * channels :] < sharp[:, 2 * channels :])
    assert torch.isfinite(flat).all(), "an empty picture has figures too"


def test_probe_lpips_is_a_distance_from_a_picture_to_itself_and_others():
    torch.manual_seed(0)
    probe = Probe().eval()
    pictures = torch.rand(3, 3, 128, 128)
    with torch.no_grad():
        reading, other = probe(pictures), probe(pictures.flip(3))
    assert torch.all(metrics.probe_lpips(reading, reading) == 0)
    assert torch.all(metrics.probe_lpips(reading, other) > 0)
    torch.testing.assert_close(metrics.probe_lpips(reading, other), metrics.probe_lpips(other, reading))


def test_relative_figures():
    def row(variant: str, steps: int, excess: float) -> dict[str, object]:
        return {"variant": variant, "sampler": "ddim", "steps": steps, "excess": excess}

    lines = [row("undistilled", k, e) for k, e in ((1, 9.0), (2, 6.0), (4, 4.0), (8, 2.0), (20, 1.0), (50, 0.8))]
    found = relative(lines, row("distilled", 4, 1.2))
    assert found["relative_excess"] == pytest.approx(1.5)
    assert found["equivalent_steps"] == 20
    assert found["gap_closed"] == pytest.approx(2.8 / 3.2)
    # Better than every undistilled run: no number of steps is enough.
    assert relative(lines, row("distilled", 4, 0.1))["equivalent_steps"] is None


def test_bootstrap_is_shared_by_variants():
    assert np.array_equal(metrics.bootstrap(50, 3, 7), metrics.bootstrap(50, 3, 7))
    low, high = metrics.interval(np.arange(1001))
    assert (low, high) == (25.0, 975.0)


def test_only_what_was_asked_counts():
    hits = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]]).float()
    asked = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    assert metrics.all_hit(hits, asked).tolist() == [1, 1, 0], "the last row asked for nothing"
    assert metrics.all_hit(hits, ~asked).tolist() == [1, 0, 0, 0]


def test_a_picture_is_nearest_to_itself():
    torch.manual_seed(0)
    probe, generator = Probe().eval(), torch.Generator().manual_seed(0)
    truth = torch.rand(3, 3, 128, 128, generator=generator)
    noisy = (truth + 0.1 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    worse = (truth + 0.3 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    with torch.no_grad():
        own = probe(truth)
        rows = [metrics.against_truth(p, truth, probe(p), own) for p in (truth, noisy, worse)]
    psnr, ssim, distance = torch.stack(rows).unbind(2)
    assert torch.all(ssim[0] > 0.999)
    assert torch.all(distance[0] == 0)
    for best, middle, last in ((psnr[0], psnr[1], psnr[2]), (ssim[0], ssim[1], ssim[2])):
        assert torch.all((best > middle) & (middle > last))
    assert torch.all((distance[1] > 0) & (distance[2] > distance[1]))
