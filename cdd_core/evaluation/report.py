"""``results.md``: the gate, the table, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from cdd_core.evaluation import compare
from cdd_core.evaluation.metrics import NAMES, RATIOS

Line = compare.Line
GIVEN = ("psnr", "probe_lpips")  # of photographs, shown against bicubic enlargement
ENOUGH = 2000  # scenes that a Fréchet distance needs, see docs/metrics.md
# Of other figures three.
DIGITS = {"depth_error": 4, "psnr": 2, "psnr_outside": 2, "probe_lpips": 4, "fid": 2, "lpips": 4}
WITH_INTERVAL = ("excess", "change_accuracy", "preserve_accuracy", "probe_lpips")  # in the long table
NO_PHOTOS = "\n## Held-out photographs\n\nNot measured: there were no photographs (docs/photos.md).\n"
FIGURES = (
    "excess",
    "attribute_accuracy",
    "change_accuracy",
    "preserve_accuracy",
    "depth_error",
    "psnr",
    "psnr_outside",
    "ssim",
    "probe_lpips",
    "diversity",
    "fid",
    "lpips",
)


def _figure(name: str) -> Callable[[Line], str]:
    """A figure with its interval, and in brackets its ratio to the same probe's figure on true renders."""
    digits = DIGITS.get(name, 3)

    def cell(line: Line) -> str:
        interval = _bracketed(line[f"{name}_ci"], digits) if name in WITH_INTERVAL else ""
        ratio = f" ({line[RATIOS[name]]:.3f})" if name in RATIOS else ""
        return f"{line[name]:.{digits}f}{interval}{ratio}"

    return cell


def _columns(first: Line) -> dict[str, Callable[[Line], str]]:
    """What the table shows of each line; a column whose figure this task doesn't have is left out."""
    columns: dict[str, Callable[[Line], str]] = {
        "variant": lambda line: str(line["variant"]),
        "sampler": lambda line: str(line["sampler"]),
        "steps": lambda line: str(line["steps"]),
        "guidance": guidance_of,
        "evaluations": lambda line: str(line["nfe"]),
    }
    return columns | {NAMES.get(name, name): _figure(name) for name in FIGURES if name in first}


def passed(gate: dict[str, object]) -> bool:
    """Every probe passed its examination on real renders."""
    return all(entry["passed"] for entry in gate.values())


def trusted(lines: list[Line], gate: dict[str, object], draws: dict[str, compare.Draws]) -> bool:
    """The probes passed their examination, and agree about the ranking."""
    return passed(gate) and not compare.disagreements(lines, draws)


def _title(line: Line) -> str:
    scales = "" if guidance_of(line) == "1" else f", guidance {guidance_of(line)}"
    return f"{line['variant']} {line['sampler']} {line['steps']}{scales}"


def guidance_of(line: Line) -> str:
    """Of the text, and of the picture where that is guided too."""
    text, picture = (f"{line.get(name, 1.0):g}" for name in ("guidance", "image_guidance"))
    return text if picture == "1" else f"{text} / {picture}"


def _agreement(lines: list[Line], draws: dict[str, compare.Draws], swapped: list[tuple[str, Line, Line]]) -> str:
    """The last part of the gate: whether the ranking depends on who judges."""
    ranks = [np.argsort(np.argsort([float(line["excess"]) for line in compare.seen_by(lines, name)])) for name in draws]
    correlation = float(np.corrcoef(ranks)[0, 1]) if len(lines) > 1 and len(ranks) > 1 else 1.0
    figures = ", ".join(NAMES.get(name, name) for name in compare.AGAINST if name in lines[0])
    verdict = f"Ranking by excess under {' and under '.join(draws)}: rank correlation {correlation:.3f}. "
    if not swapped:
        return verdict + f"No two rows are surely in opposite order ({figures}; paired intervals)."
    pairs = "; ".join(f"{_title(a)} / {_title(b)} by {NAMES.get(name, name)}" for name, a, b in swapped)
    return verdict + f"Surely in opposite order: {pairs}."


def markdown(lines: list[Line], gate: dict[str, object], command: str, draws: dict[str, compare.Draws]) -> str:
    """The whole text but for what is said of things beyond Terra.

    Args:
        lines: of the table.
        gate: by probe, see ``Runner.gate``.
        command: that wrote them.
        draws: by probe, see :mod:`cdd_core.evaluation.compare`.
    """
    first, swapped = lines[0], compare.disagreements(lines, draws)
    columns = _columns(first)
    parts = [
        f"# Results: {first['task']}",
        "",
        *([] if first["n"] >= ENOUGH else [f"A quick look: n is below {ENOUGH:,}, so these are no results.", ""]),
        f"n = {first['n']} held-out scenes{_world(first)}, seed {first['seed']}, mixed precision: "
        f"{lines[-1]['precision']}; 95 % intervals by bootstrap over scenes. Written by:",
        "",
        f"```\n{command}\n```",
        "",
        *_gate(gate),
        "",
        _agreement(lines, draws, swapped),
        "",
        "## Every model, sampler and number of steps",
        "",
        f"Judged by probe {compare.FIRST}; in brackets without a comma the ratio to the same probe's figure on true "
        "renders.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    parts += [f"| {' | '.join(cell(line) for cell in columns.values())} |" for line in lines]
    parts += _fewer(first)
    if swapped or not passed(gate):
        return "\n".join([*parts, "", "The gate is not passed, so nothing is concluded from this table."]) + "\n"
    return "\n".join([*parts, *_sanity(lines, draws), *_conclusions(lines, draws)]) + "\n"


def _world(first: Line) -> str:
    return f" of world {first['world']}" if first.get("world") else ""


def _gate(gate: dict[str, object]) -> list[str]:
    """The probes' examination, and what they read off true renders."""
    parts = [
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
    told = (
        f"{name}: " + ", ".join(f"{NAMES.get(k, k)} {v:.{DIGITS.get(k, 3)}f}" for k, v in entry["true"].items())
        for name, entry in gate.items()
    )
    lost = f"The autoencoder alone gives them back with {next(iter(gate.values()))['psnr_vae']:.1f} dB."
    return [*parts, "", f"Of true renders the probes read: {'; '.join(told)}. {lost}"]


def _fewer(first: Line) -> list[str]:
    """Of which figures not every picture counts."""
    counts = [f"{NAMES.get(k, k)} {first[f'{k}_n']}" for k in FIGURES if f"{k}_n" in first]
    return ["", f"Pictures that count (docs/metrics.md): {', '.join(counts)}."] if counts else []


def _sanity(lines: list[Line], draws: dict[str, compare.Draws]) -> list[str]:
    """What the undistilled model has to be before anything is distilled from it."""
    own = next((line for line in lines if line["variant"] == "undistilled" and line["own_guidance"]), lines[0])
    guidance = "" if guidance_of(own) == "1" else f" Guidance {guidance_of(own)}, its own."
    parts = ["", "## The undistilled model", "", f"Under DDIM.{guidance}", "", "| probe | claim | figure | holds |"]
    parts.append("|---|---|---|---|")
    for name, spread in draws.items():
        parts += [
            f"| {name} | {found.claim} | {found.value:.3f}{_bracketed(found.ci)} | {'yes' if found.passed else 'NO'} |"
            for found in compare.teacher(compare.seen_by(lines, name), spread)
        ]
    return parts


def _conclusions(lines: list[Line], draws: dict[str, compare.Draws]) -> list[str]:
    """Every student's standing, what it has beside fifty steps, and its rivals at as many evaluations."""
    rows = [number for number, line in enumerate(lines) if line["variant"] == "distilled"]
    if not rows:
        return []
    seen = {name: compare.seen_by(lines, name) for name in draws}
    parts = [
        "",
        "## Distilled against undistilled",
        "",
        "The undistilled model is under DDIM; intervals are paired, scene by scene.",
        "",
        "| steps | probe | relative excess | equivalent steps | gap closed |",
        "|---|---|---|---|---|",
    ]
    for row, name in product(rows, seen):
        line, own = seen[name][row], seen[name]
        parts.append(f"| {line['steps']} | {name} | {_standing(compare.standing(own, line, draws[name]))} |")
    for title, ways, how in (
        (f"{compare.FULL} undistilled steps", compare.BESIDE, compare.beside),
        ("rival of no more evaluations", dict.fromkeys(compare.AGAINST, np.subtract), compare.rivals),
    ):
        heads = [_head(figure, way) for figure, way in ways.items() if figure in lines[0]]
        parts += ["", f"| distilled | {title} | evaluations | probe | {' | '.join(heads)} |"]
        parts.append("|---" * (4 + len(heads)) + "|")
        for row, name in product(rows, seen):
            line, own = seen[name][row], seen[name]
            for other, told in how(own, line, draws[name]):
                cells = [_compared(value, ci, ways[figure]) for figure, (value, ci) in told.items()]
                parts.append(f"| {_title(line)} | {_title(other)} | {other['nfe']} | {name} | {' | '.join(cells)} |")
    return parts


def _head(figure: str, way: np.ufunc) -> str:
    return f"{NAMES.get(figure, figure)}, {'ratio' if way is np.divide else 'student less rival'}"


def _compared(value: float, ci: tuple[float, float], way: np.ufunc) -> str:
    """A ratio, or a difference with its sign."""
    return (f"{value:.3f}" if way is np.divide else f"{value:+.3f}") + _bracketed(ci)


def _standing(found: dict[str, object]) -> str:
    """Its cells: relative excess, equivalent steps, gap closed."""
    relative = "not quoted: undistilled, it isn't surely above 0"
    if "relative_excess" in found:
        relative = f"{found['relative_excess']:.3f}{_bracketed(found['relative_excess_ci'])}"
    gap, equal = "not quoted", "more than measured"
    if found["gap_closed"] is not None:
        low, high = (100 * k for k in found["gap_closed_ci"])
        gap = f"{100 * found['gap_closed']:.0f} % [{low:.0f}, {high:.0f}]"
    if found["equivalent_steps"] is not None:
        steps, evaluations = found["equivalent_steps"], found["equivalent_evaluations"]
        equal = str(steps) if steps == evaluations else f"{steps}, {evaluations} evaluations"
    return f"{relative} | {equal} | {gap}"


def _bracketed(ci: tuple[float, float], digits: int = 3) -> str:
    return f" [{ci[0]:.{digits}f}, {ci[1]:.{digits}f}]"


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
        "and decoded: what that alone loses.",
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
