"""Editing and super-resolution of held-out photographs: what the tables say of Terra has to hold for the world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from kornia.enhance import jpeg_codec_differentiable
from torch import Tensor

from cdd_core.config import EvaluateConfig
from cdd_core.data.augment import gaussian_blur
from cdd_core.data.photos import cut_crops
from cdd_core.data.small import kept_shown
from cdd_core.data.store import HELD_OUT
from cdd_core.evaluation import metrics, sheets
from cdd_core.evaluation.compare import BICUBIC
from cdd_core.evaluation.probe import Probe
from cdd_core.evaluation.rows import Row
from cdd_core.evaluation.runner import autoencoded, drawn
from cdd_core.images import open_image, to_picture
from cdd_core.inference import as_condition
from cdd_core.loading import Model

SQUARES = 256
CHANGES = 4 * ("make it sunset", "turn it into winter", "add fog", "make it night")
FIGURES = metrics.PAIRED[:3]
# Damage from little to much: Gaussian blur in pixels, noise, JPEG by its quality.
DAMAGES = {"blur": (0.5, 1.0, 2.0), "noise": (0.02, 0.05, 0.1), "jpeg": (80.0, 40.0, 10.0)}


def measure_photos(
    config: EvaluateConfig,
    models: dict[str, Model],
    probe: Probe,
    photos: Path,
    chosen: list[Row],
) -> dict[str, object]:
    """PSNR, SSIM and probe_lpips on squares of held-out photographs, beside bicubic enlargement; and their sheet.

    Args:
        config: precision, seed, and where to.
        models: by variant.
        probe: whose distance is used; its ranking of known damage is reported too.
        photos: folder of photographs, see ``data/photos.py``.
        chosen: how they are drawn.
    """
    size, cache = next(iter(models.values())).size, config.cache / "photos"
    squares = cut_crops(photos, cache, SQUARES, size, held_out=True)
    rows = np.arange(len(squares))
    truth = squares.images(rows) / 2 + 0.5
    shown = kept_shown(squares, cache, HELD_OUT, which=squares.identity).images(rows) / 2 + 0.5
    any_model = next(iter(models.values()))
    columns = {"given": shown, "autoencoder": torch.cat([autoencoded(any_model, part) for part in truth.split(32)])}
    for row in chosen:
        columns[f"{row.variant} {row.steps}"] = _enlarged(models[row.variant], row, shown, config)
    # Squares of one photograph are alike, so photographs are drawn anew, each with all its squares.
    drawn_anew = metrics.bootstrap(len(rows) // squares.each, config.bootstrap, config.seed)
    draws = (drawn_anew[:, :, None] * squares.each + np.arange(squares.each)).reshape(len(drawn_anew), -1)
    values = {name: _compared(probe, pictures, truth) for name, pictures in columns.items()}
    lines = []
    for name, own in values.items():
        line: dict[str, object] = {"label": BICUBIC if name == "given" else name}
        for figure, mine, plain in zip(FIGURES, own.T, values["given"].T, strict=True):
            more = mine - plain
            line |= {figure: float(mine.mean()), f"{figure}_more_than_bicubic": float(more.mean())}
            line[f"{figure}_more_than_bicubic_ci"] = metrics.interval([float(more[d].mean()) for d in draws])
        lines.append(line)
    config.out.mkdir(parents=True, exist_ok=True)
    first = {name: pictures[:: max(1, len(rows) // 32)][:32] for name, pictures in {**columns, "truth": truth}.items()}
    sheets.sheet(first, per_row=2).save(config.out / "photos.png")
    counts = {"photographs": drawn_anew.shape[1], "squares": len(rows)}
    return {**counts, "rows": lines, "ranking": ranks_damage(probe, truth)}


def edit_photos(config: EvaluateConfig, models: dict[str, Model], photos: list[Path], chosen: list[Row]) -> list[str]:
    """Sheet of held-out photographs after fixed changes, which nobody selected; returns what was asked of each.

    Args:
        config, models, chosen: see :func:`measure_photos`.
        photos: photographs that no training saw, in a fixed order.
    """
    size, some = next(iter(models.values())).size, photos[: len(CHANGES)]
    asked = list(CHANGES[: len(some)])
    given = torch.cat([to_picture(open_image(path), size) for path in some])
    columns = {"given": given}
    for row in chosen:
        model = models[row.variant]
        seeds = [config.seed * 1_000_003 + 980_000 + k for k in range(len(some))]
        condition = as_condition(model, given)
        columns[f"{row.variant} {row.steps}"] = drawn(model, row.plan(model), condition, asked, seeds, config.precision)
    config.out.mkdir(parents=True, exist_ok=True)
    sheets.sheet(columns, 2, asked).save(config.out / "photos.png")
    return asked


def ranks_damage(probe: Probe, pictures: Tensor) -> dict[str, dict[str, object]]:
    """Mean probe_lpips of pictures to themselves after damage; it has to rise with the damage, whatever its kind."""
    found: dict[str, dict[str, object]] = {}
    for kind, levels in DAMAGES.items():
        distances = [float(_compared(probe, _damaged(pictures, kind, x), pictures)[:, 2].mean()) for x in levels]
        rising = all(a < b for a, b in zip([0.0, *distances], distances, strict=False))
        found[kind] = {"levels": list(levels), "probe_lpips": distances, "passed": rising}
    return found


def _damaged(pictures: Tensor, kind: str, level: float) -> Tensor:
    damage: dict[str, Callable[[], Tensor]] = {
        "blur": lambda: gaussian_blur(pictures.flatten(0, 1)[:, None], torch.full((3 * len(pictures),), level)).view_as(
            pictures
        ),
        "noise": lambda: pictures + level * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0)),
        "jpeg": lambda: jpeg_codec_differentiable(pictures, torch.full((len(pictures),), level)),
    }
    return damage[kind]().clamp(0, 1)


@torch.no_grad()
def _compared(probe: Probe, pictures: Tensor, truth: Tensor) -> Tensor:
    """The figures of each picture, (N, 3)."""
    parts = zip(pictures.split(32), truth.split(32), strict=True)
    return torch.cat([metrics.paired_figures(a, b, probe(a), probe(b)) for a, b in parts])


def _enlarged(model: Model, row: Row, shown: Tensor, config: EvaluateConfig) -> Tensor:
    how, found = row.plan(model), []
    for part in torch.arange(len(shown)).split(32):
        seeds = [config.seed * 1_000_003 + 970_000 + int(k) for k in part]
        given = as_condition(model, shown[part])
        found.append(drawn(model, how, given, [""] * len(part), seeds, config.precision))
    return torch.cat(found)
