"""Tables, figures and unselected sheets from what the runner measured."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor

from cdd_core.evaluation import compare
from cdd_core.images import to_pil

Line = compare.Line
GIVEN = ("psnr", "probe_lpips")  # of photographs, shown against bicubic enlargement
ENOUGH = 2000  # scenes that a Fréchet distance needs, see docs/metrics.md


def _with_ratio(name: str, digits: int) -> Callable[[Line], str]:
    """A figure and, in brackets, its ratio to the same probe's figure on true renders."""
    own, ratio = {
        "depth": ("depth_error", "depth_ratio"),
        **{k: (f"{k}_accuracy", f"{k}_ratio") for k in ("attribute", "change", "preserve")},
    }[name]
    return lambda line: f"{line[own]:.{digits}f} ({line[ratio]:.{digits - 1}f})"


def _columns(first: Line) -> dict[str, Callable[[Line], str]]:
    """What the table shows of each line; a column whose figure this task doesn't have is left out."""
    columns: dict[str, Callable[[Line], str]] = {
        "variant": lambda line: str(line["variant"]),
        "sampler": lambda line: str(line["sampler"]),
        "steps": lambda line: str(line["steps"]),
        "guidance": _guidance,
        "evaluations": lambda line: str(line["nfe"]),
        "excess": lambda line: f"{line['excess']:.3f} [{line['excess_ci'][0]:.3f}, {line['excess_ci'][1]:.3f}]",
        "attributes": _with_ratio("attribute", 3),
    }
    if "change_accuracy" in first:
        columns |= {"asked change": _with_ratio("change", 3), "all else kept": _with_ratio("preserve", 3)}
    columns["depth error"] = _with_ratio("depth", 4)
    for name, digits in (("psnr", 2), ("psnr_outside", 2), ("ssim", 3), ("probe_lpips", 4), ("diversity", 3)):
        if name in first:
            columns[name] = lambda line, name=name, digits=digits: f"{line[name]:.{digits}f}"
    return columns


def disagreements(lines: list[Line]) -> list[tuple[str, str]]:
    """Pairs of rows that the two probes put in opposite order, each with intervals that don't overlap."""

    def surely_below(a: Line, b: Line, suffix: str) -> bool:
        return a[f"excess{suffix}_ci"][1] < b[f"excess{suffix}_ci"][0]

    return [
        (_title(a), _title(b)) for a, b in permutations(lines, 2) if surely_below(a, b, "") and surely_below(b, a, "_b")
    ]


def trusted(lines: list[Line], gate: dict[str, object]) -> bool:
    """The probes passed their examination, and agree about the ranking."""
    return all(entry["passed"] for entry in gate.values()) and not disagreements(lines)


def _title(line: Line) -> str:
    scales = "" if _guidance(line) == "1" else f", guidance {_guidance(line)}"
    return f"{line['variant']} {line['sampler']} {line['steps']}{scales}"


def _guidance(line: Line) -> str:
    """Of the text, and of the picture where that is guided too."""
    text, picture = (f"{line.get(name, 1.0):g}" for name in ("guidance", "image_guidance"))
    return text if picture == "1" else f"{text} / {picture}"


def _agreement(lines: list[Line]) -> str:
    """The last part of the gate: whether the ranking depends on who judges."""
    ranks = [np.argsort(np.argsort([float(line[key]) for line in lines])) for key in ("excess", "excess_b")]
    swapped = disagreements(lines)
    correlation = float(np.corrcoef(*ranks)[0, 1]) if len(lines) > 1 else 1.0
    verdict = f"Ranking by excess under A and under B: rank correlation {correlation:.3f}; "
    if not swapped:
        return verdict + "no two rows are in opposite order with intervals that don't overlap."
    return verdict + "in opposite order beyond their intervals: " + "; ".join(f"{a} / {b}" for a, b in swapped) + "."


def markdown(lines: list[Line], gate: dict[str, object], command: str, draws: compare.Draws) -> str:
    """``results.md``: the gate, the table, and what follows from it."""
    first = lines[0]
    columns = _columns(first)
    parts = [
        f"# Results: {first['task']}",
        "",
        *([] if first["n"] >= ENOUGH else [f"A quick look: n is below {ENOUGH:,}, so these are no results.", ""]),
        f"n = {first['n']} held-out scenes, seed {first['seed']}, mixed precision: {lines[-1]['precision']}; "
        "95 % intervals by bootstrap over scenes. Written by:",
        "",
        f"```\n{command}\n```",
        "",
        "## The probes' gate",
        "",
        "| probe | attributes | fd real | fd vae | fd blur | fd shuffled | depth error | shuffled | passed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in gate.items():
        values = [entry["attribute_accuracy"]] + [entry[f"fd_{k}"] for k in ("real", "vae", "blur", "shuffled")]
        depth = [entry["depth_error"], entry["depth_error_shuffled"]]
        cells = [f"{v:.3f}" for v in values] + [f"{v:.4f}" for v in depth]
        parts.append(f"| {name} | {' | '.join(cells)} | {'yes' if entry['passed'] else 'NO'} |")
    parts += [
        "",
        _agreement(lines),
        "",
        "## Every model, sampler and number of steps",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    parts += [f"| {' | '.join(cell(line) for cell in columns.values())} |" for line in lines]
    parts += ["", "In brackets: the ratio to the same probe's figure on true renders."]
    if not trusted(lines, gate):
        return "\n".join([*parts, "", "The gate is not passed, so nothing is concluded from this table."]) + "\n"
    return "\n".join(parts + _conclusions(lines, draws)) + "\n"


def _conclusions(lines: list[Line], draws: compare.Draws) -> list[str]:
    """The teacher's sanity, the student's standing, and its rivals at as many evaluations."""
    parts = ["", "## The undistilled model", "", "| claim | figure | holds |", "|---|---|---|"]
    parts += [
        f"| {found.claim} | {found.value:.3f}{_bracketed(found.ci)} | {'yes' if found.passed else 'NO'} |"
        for found in compare.teacher(lines, draws)
    ]
    students = [line for line in lines if line["variant"] == "distilled"]
    if not students:
        return parts
    beside = {
        f"{figure.replace('_', ' ')} {'against' if how is np.divide else 'more than with'} 50 steps": figure
        for figure, (how, _) in compare.BESIDE.items()
        if figure in students[0]
    }
    parts += [
        "",
        "## Distilled against undistilled",
        "",
        "Against the undistilled model under DDIM; intervals are paired, scene by scene.",
        "",
        f"| steps | relative excess | equivalent steps | gap closed | {' | '.join(beside)} |",
        "|---" * (4 + len(beside)) + "|",
    ]
    for line in students:
        found = compare.standing(lines, line, draws)
        gap = "not quoted" if found["gap_closed"] is None else f"{100 * found['gap_closed']:.0f} %"
        equal = "more than measured" if found["equivalent_steps"] is None else str(found["equivalent_steps"])
        ratios = [
            f"{found[name]:.3f}{_bracketed(found[f'{name}_ci'])}" if name in found else "not measured"
            for name in ("relative_excess", *beside.values())
        ]
        parts.append(f"| {line['steps']} | {ratios[0]} | {equal} | {gap} | {' | '.join(ratios[1:])} |")
    figures = [figure for figure in compare.AGAINST if figure in students[0]]
    more = " | ".join(f"more {figure.replace('_accuracy', '').replace('_', ' ')}" for figure in figures)
    parts += [
        "",
        f"| distilled | rival of as many evaluations or just fewer | {more} |",
        "|---" * (2 + len(figures)) + "|",
    ]
    for line in students:
        for other, differences in compare.rivals(lines, line, draws):
            cells = [f"{value:+.3f}{_bracketed(ci)}" for value, ci in differences.values()]
            parts.append(f"| {_title(line)} | {_title(other)} | {' | '.join(cells)} |")
    return parts


def _bracketed(ci: tuple[float, float] | None) -> str:
    return "" if ci is None else f" [{ci[0]:.3f}, {ci[1]:.3f}]"


def figure(lines: list[Line], path: Path) -> None:
    """Excess and depth error over network evaluations, one curve for each model and sampler."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    chart, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    curves: dict[str, list[Line]] = {}
    for line in sorted(lines, key=lambda each: each["nfe"]):
        scales = "" if _guidance(line) == "1" else f"guidance {_guidance(line)}"
        words = (line["variant"], line["sampler"] if line["variant"] == "undistilled" else "", scales)
        curves.setdefault(" ".join(filter(None, words)), []).append(line)
    for label, own in curves.items():
        if not own[0]["nfe"]:  # bicubic enlargement asks no network: a level, not a curve
            for axis, name in zip(axes, ("excess", "depth_error"), strict=True):
                axis.axhline(own[0][name], color="grey", linestyle="--", label=label)
            continue
        x = [r["nfe"] for r in own]
        axes[0].plot(x, [r["excess"] for r in own], marker="o", label=label)
        low = [r["excess_ci"][0] for r in own]
        high = [r["excess_ci"][1] for r in own]
        axes[0].fill_between(x, low, high, alpha=0.15)
        axes[1].plot(x, [r["depth_error"] for r in own], marker="o", label=label)
    for axis, title in zip(axes, ("excess Fréchet distance", "depth error"), strict=True):
        axis.set(xscale="log", xlabel="network evaluations", title=title)
        ticks = sorted({int(r["nfe"]) for r in lines} - {0})
        axis.set_xticks(ticks, labels=[str(tick) for tick in ticks])
        axis.minorticks_off()
    axes[0].set(yscale="log")
    axes[0].legend(fontsize=8)
    chart.tight_layout()
    chart.savefig(path, dpi=110)
    pyplot.close(chart)


def kept_pictures(folder: Path) -> Tensor:
    """The first 64 pictures of a measured row, in [0, 1]."""
    found = []
    for path in sorted(folder.glob("[0-9]*.safetensors")):
        kept = load_file(path)
        if "pictures" not in kept:
            break
        found.append(kept["pictures"])
    return torch.cat(found)[:64].float() / 255


def sheet(columns: dict[str, Tensor], per_row: int) -> Image.Image:
    """Unselected pictures side by side: items in reading order, each a labelled strip of one picture a column.

    Args:
        columns: label to pictures (N, 3, S, S); the same N for all.
        per_row: items in a row.
    """
    labels, pictures = list(columns), list(columns.values())
    count, _, height, width = pictures[0].shape
    rows = -(-count // per_row)
    strip = width * len(labels) + 6
    canvas = Image.new("RGB", (strip * per_row, (height + 4) * rows + 16), "white")
    pen = ImageDraw.Draw(canvas)
    for item in range(count):
        left, top = (item % per_row) * strip, (item // per_row) * (height + 4) + 16
        for column, given in enumerate(pictures):
            canvas.paste(to_pil(given[item]).convert("RGB"), (left + column * width, top))
            if item < per_row:
                pen.text((left + column * width + 3, 2), labels[column], fill="black")
    return canvas


def grid_sheet(pictures: Tensor) -> Image.Image:
    """64 pictures as 8 x 8, in order."""
    missing = -len(pictures) % 8
    whole = torch.cat([pictures, pictures.new_ones(missing, *pictures.shape[1:])])
    lines = [np.concatenate([np.asarray(to_pil(p).convert("RGB")) for p in row], 1) for row in whole.split(8)]
    return Image.fromarray(np.concatenate(lines, 0))


def markdown_elsewhere(beyond: list[Line], lines: list[Line]) -> str:
    """The section on depth maps that are not from Terra; empty if there were none."""
    if not beyond:
        return ""
    parts = [
        "",
        "## Depth maps that are not from Terra",
        "",
        "Sixteen maps: a photograph's disparity and drawn scenes (`assets/elsewhere`). Pictures: `elsewhere.png`.",
        "",
        "| variant | sampler | steps | depth error | against the same row on Terra |",
        "|---|---|---|---|---|",
    ]
    for entry in beyond:
        ratio = entry["depth_error"] / next(r["depth_error"] for r in lines if r["label"] == entry["label"])
        how = f"{entry['variant']} | {entry['sampler']} | {entry['steps']}"
        parts.append(f"| {how} | {entry['depth_error']:.4f} | {ratio:.2f} |")
    return "\n".join(parts) + "\n"


def markdown_edited(asked: list[str]) -> str:
    """The section on photographs that were edited."""
    listed = ", ".join(f"{number} {words}" for number, words in enumerate(asked, 1))
    return (
        "\n## Held-out photographs\n\nNo training saw them (docs/photos.md), and none was selected. Pictures, in "
        f"reading order: `photos.png`, for {listed}.\n"
    )


def markdown_photos(found: dict[str, object]) -> str:
    """The section on photographs: every model against bicubic enlargement, and the distance's own examination."""
    parts = [
        "",
        "## Held-out photographs",
        "",
        f"{found['squares']} squares of {found['photographs']} photographs that no training saw (docs/photos.md), 95 % "
        "intervals over the photographs. Pictures: `photos.png`. The row autoencoder is the undamaged squares encoded "
        "and decoded: nothing over these latents can be nearer.",
        "",
        "| model | PSNR | more than bicubic | SSIM | probe_lpips | more than bicubic |",
        "|---|---|---|---|---|---|",
    ]
    for line in found["rows"]:
        more = [f"{line[k]:+.4f}{_bracketed(line[f'{k}_ci'])}" for k in (f"{n}_more_than_bicubic" for n in GIVEN)]
        parts.append(
            f"| {line['label']} | {line['psnr']:.2f} | {more[0]} | {line['ssim']:.3f} | {line['probe_lpips']:.4f} | "
            f"{more[1]} |"
        )
    parts += ["", "probe_lpips of these photographs to themselves, damaged more and more:", ""]
    parts += ["| damage | levels | probe_lpips | rises |", "|---|---|---|---|"]
    for kind, rank in found["ranking"].items():
        levels, distances = (", ".join(f"{x:.3g}" for x in rank[k]) for k in ("levels", "probe_lpips"))
        parts.append(f"| {kind} | {levels} | {distances} | {'yes' if rank['passed'] else 'NO'} |")
    return "\n".join(parts) + "\n"
