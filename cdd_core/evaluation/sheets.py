"""Unselected sheets and the curves of what the runner measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cdd_core.evaluation.compare import Line
from cdd_core.evaluation.report import guidance_of
from cdd_core.images import to_pil

# The second curve, by what a line has.
SECOND = {
    "change_accuracy": {"change_accuracy": "asked change made"},
    "probe_lpips": {"probe_lpips": "probe_lpips to the true picture"},
    "depth_error": {"depth_error": "depth error"},
}


def figure(lines: list[Line], path: Path) -> None:
    """Excess, and what else the task is about, over network evaluations; one curve for each model and sampler."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = {"excess": "excess Fréchet distance", **next(told for key, told in SECOND.items() if key in lines[0])}
    chart, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    curves: dict[str, list[Line]] = {}
    for line in sorted(lines, key=lambda each: each["nfe"]):
        scales = "" if guidance_of(line) == "1" else f"guidance {guidance_of(line)}"
        words = (line["variant"], line["sampler"] if line["variant"] == "undistilled" else "", scales)
        curves.setdefault(" ".join(filter(None, words)), []).append(line)
    for axis, name in zip(axes, names, strict=True):
        for label, own in curves.items():
            if not own[0]["nfe"]:  # bicubic enlargement asks no network: a level, not a curve
                axis.axhline(own[0][name], color="grey", linestyle="--", label=label)
                continue
            x = [line["nfe"] for line in own]
            axis.plot(x, [line[name] for line in own], marker="o", label=label)
            axis.fill_between(x, *np.transpose([line[f"{name}_ci"] for line in own]), alpha=0.15)
        axis.set(xscale="log", xlabel="network evaluations", title=names[name])
        ticks = sorted({int(line["nfe"]) for line in lines} - {0})
        axis.set_xticks(ticks, labels=[str(tick) for tick in ticks])
        axis.minorticks_off()
    axes[0].set_yscale("symlog", linthresh=1.0)  # an excess may be below 0, by chance
    axes[0].legend(fontsize=8)
    chart.tight_layout()
    chart.savefig(path, dpi=110)
    pyplot.close(chart)


def sheet(columns: dict[str, Tensor], per_row: int, asked: Sequence[str] = ()) -> Image.Image:
    """Unselected pictures side by side: items in reading order, each a labelled strip of one picture a column.

    Args:
        columns: label to pictures (N, 3, S, S); the same N for all.
        per_row: items in a row.
        asked: what stands below each item.
    """
    labels, pictures = list(columns), list(columns.values())
    count, _, height, width = pictures[0].shape
    rows = -(-count // per_row)
    strip, down = width * len(labels) + 6, height + (20 if any(asked) else 4)
    canvas = Image.new("RGB", (strip * per_row, down * rows + 16), "white")
    pen = ImageDraw.Draw(canvas)
    for item in range(count):
        left, top = (item % per_row) * strip, (item // per_row) * down + 16
        for column, given in enumerate(pictures):
            canvas.paste(to_pil(given[item]).convert("RGB"), (left + column * width, top))
            if item < per_row:
                pen.text((left + column * width + 3, 2), labels[column], fill="black")
        if any(asked):
            pen.text((left + 3, top + height + 2), asked[item], fill="black")
    return canvas


def grid_sheet(pictures: Tensor) -> Image.Image:
    """64 pictures as 8 x 8, in order."""
    missing = -len(pictures) % 8
    whole = torch.cat([pictures, pictures.new_ones(missing, *pictures.shape[1:])])
    lines = [np.concatenate([np.asarray(to_pil(p).convert("RGB")) for p in row], 1) for row in whole.split(8)]
    return Image.fromarray(np.concatenate(lines, 0))
