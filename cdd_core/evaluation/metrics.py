"""The figures of the tables, each defined once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cdd_core.data.terra.attributes import ATTRIBUTES
from cdd_core.evaluation.probe import Reading

SCALE_FEATURES = (12, 12, 10, 8)  # principal directions kept of each scale of the probe
CONDITION_GRID = (2, 5)
FEATURES = sum(SCALE_FEATURES) + 12 + CONDITION_GRID[0] * CONDITION_GRID[1]  # 64 with the one-hot attributes


# Figures that are told as ratios to true renders, too, and what those are called in a line of a table.
RATIOS = {f"{k}_accuracy": f"{k}_ratio" for k in ("attribute", "change", "preserve")} | {"depth_error": "depth_ratio"}
# In words, where a name isn't.
NAMES = {
    "attribute_accuracy": "attributes",
    "change_accuracy": "asked change",
    "preserve_accuracy": "all else kept",
    "depth_error": "depth error",
    "psnr_outside": "psnr outside",
}


@dataclass(frozen=True)
class FeatureSpace:
    """A whitened space for the Fréchet distance, fitted to real renders only.

    A point is a picture *with its condition*: 42 directions of the probe's activations (level, spread and
    roughness over the picture, at four scales), 12 for the attributes asked for, 10 for the depth
    asked for. A picture of the wrong condition is then far away even if it looks right.
    """

    means: tuple[Tensor, ...]
    directions: tuple[Tensor, ...]

    @classmethod
    def fit(cls, statistics: list[Tensor]) -> FeatureSpace:
        """From the statistics of real renders, one tensor (N, 3 C_k) for each scale."""
        means, directions = [], []
        for given, kept in zip(statistics, SCALE_FEATURES, strict=True):
            centred = given.double() - given.double().mean(0)
            _, values, rows = torch.linalg.svd(centred, full_matrices=False)
            spread = values[:kept] / len(given) ** 0.5
            means.append(given.double().mean(0))
            directions.append(rows[:kept].T / spread)
        return cls(tuple(means), tuple(directions))

    def points(self, statistics: list[Tensor], codes: Tensor, depth: Tensor) -> Tensor:
        """Whitened points, float64, shape (N, 64).

        Args:
            statistics: of the pictures, see :func:`scale_statistics`.
            codes: attributes asked for, shape (N, 4).
            depth: condition asked for, shape (N, 1, 64, 64).
        """
        parts = [(s.double() - m) @ d for s, m, d in zip(statistics, self.means, self.directions, strict=True)]
        for column, values in enumerate(ATTRIBUTES.values()):
            share = 1 / len(values)
            one_hot = F.one_hot(codes[:, column], len(values)).double()
            parts.append((one_hot - share) / (share * (1 - share)) ** 0.5)
        pooled = F.adaptive_avg_pool2d(depth.double(), CONDITION_GRID).flatten(1)
        parts.append((pooled - 0.4) / 0.25)
        return torch.cat(parts, 1)


def scale_statistics(reading: Reading) -> list[Tensor]:
    """Level, spread and roughness of every channel over the picture, at each scale; (B, 3 C_k) each.

    Level is the mean, spread the logarithm of the standard deviation, roughness that of the mean difference between
    neighbours. Without roughness a blur of one pixel cannot be told from another set of real renders.
    """
    return [torch.cat([m.mean((2, 3)), _log(m.std((2, 3))), _log(_roughness(m))], 1) for m in reading.maps]


def _roughness(maps: Tensor) -> Tensor:
    down, right = maps.diff(dim=2).abs().mean((2, 3)), maps.diff(dim=3).abs().mean((2, 3))
    return (down + right) / 2


def _log(values: Tensor) -> Tensor:
    return values.clamp_min(1e-4).log()  # an empty picture has neither spread nor roughness


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between the normal fits of two sets of points (N, D), float64."""
    mean = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float(mean + cov_a.trace() + cov_b.trace() - 2 * cross)


def excess(generated: Tensor, twins: Tensor, reference: Tensor) -> float:
    """E = fd(generated, reference) - fd(twins, reference), where twins are the true renders of the same scenes."""
    return frechet(generated, reference) - frechet(twins, reference)


def frechet_draws(points: Tensor, reference: Tensor, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The Fréchet distance under resamplings of both sets, (R,).

    Args:
        points, reference: (N, D) and (M, D), float64.
        rows, others: of them, (R, N) and (R, M).
    """
    return np.array([frechet(points[a], reference[b]) for a, b in zip(rows, others, strict=True)])


def bootstrap(count: int, rounds: int, seed: int) -> np.ndarray:
    """Resampled row numbers, shape (rounds, count); shared by all variants, so that comparisons are paired."""
    return np.random.default_rng(seed).integers(count, size=(rounds, count))


def interval(values: list[float] | np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval."""
    low, high = np.percentile(np.asarray(values), [2.5, 97.5])
    return float(low), float(high)


def attribute_hits(reading: Reading, codes: Tensor) -> Tensor:
    """Whether each attribute is read as asked, (B, 4) in {0, 1}."""
    named = zip(reading.logits.values(), codes.unbind(1), strict=True)
    return torch.stack([(logits.argmax(1) == code).float() for logits, code in named], 1)


def depth_errors(reading: Reading, depth: Tensor) -> Tensor:
    """Mean absolute difference of probed and given depth for each picture, shape (B,)."""
    return (reading.depth.clamp(0, 1) - depth).abs().mean((1, 2, 3))


def probe_lpips(a: Reading, b: Reading) -> Tensor:
    """Distance in the form of LPIPS (Zhang et al. 2018) in the probe's feature maps, unit weights; (B,).

    Channels are normalised to unit length at every position, squared differences averaged over positions and
    summed over scales.
    """
    total = torch.zeros(len(a.depth), device=a.depth.device)
    for x, y in zip(a.maps, b.maps, strict=True):
        difference = F.normalize(x, dim=1) - F.normalize(y, dim=1)
        total = total + difference.square().sum(1).mean((1, 2))
    return total


PAIRED = ("psnr", "ssim", "probe_lpips", "psnr_outside")
UNCHANGED, LEAST_OUTSIDE = 5 / 255, 0.01  # a pixel's largest difference; a picture's least share of such pixels


def paired_figures(
    pictures: Tensor, truth: Tensor, read: Reading, true_reading: Reading, before: Tensor | None = None
) -> Tensor:
    """The figures named in :data:`PAIRED` for each picture, (B, 4), or (B, 3) where nothing was changed.

    Args:
        pictures, truth: in [0, 1], shape (B, 3, H, W).
        read, true_reading: what the probe makes of both.
        before: pictures before their change. Where they equal the truth, ``psnr_outside`` is counted; it is not a
            number where that is nowhere.
    """
    # It takes most of a second to import, and the demo reads depth without it.
    from torchmetrics.functional.image import structural_similarity_index_measure

    ssim = structural_similarity_index_measure(pictures, truth, data_range=1.0, reduction="none")
    found = [psnr(pictures, truth), ssim, probe_lpips(read, true_reading)]
    if before is not None:
        outside = ((before - truth).abs().amax(1) < UNCHANGED).float()
        error = ((pictures - truth).square().mean(1) * outside).sum((1, 2)) / outside.sum((1, 2))
        found.append(torch.where(outside.mean((1, 2)) < LEAST_OUTSIDE, torch.nan, -10 * error.log10()))
    return torch.stack(found, 1)


def psnr(pictures: Tensor, truth: Tensor) -> Tensor:
    """Peak signal to noise in dB of each picture, (B,), for pictures in [0, 1] of shape (B, 3, H, W)."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return peak_signal_noise_ratio(pictures, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))


def all_hit(hits: Tensor, asked: Tensor) -> Tensor:
    """For each row whether every attribute that counts is read as asked, (N,); not a number where none counts.

    Args:
        hits: (N, 4) in {0, 1}.
        asked: which of them count, bool, (N, 4).
    """
    return torch.where(asked.any(1), ((hits > 0) | ~asked).all(1).float(), torch.nan)
