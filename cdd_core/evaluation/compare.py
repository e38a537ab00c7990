"""What follows from a table (docs/metrics.md): whether the teacher is sane, and how a student stands to it.

Lines are those of ``results.json``; ``draws`` holds, for every line's label, each figure under the same resamplings of
the scenes, so that a difference of two lines has an interval of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from cdd_core.evaluation.metrics import interval

Line = dict[str, object]
Draws = dict[str, dict[str, np.ndarray]]
More = tuple[float, tuple[float, float]]  # a difference and its interval

FULL = 50  # steps of the undistilled model that others are compared with
Better = Callable[..., Line]  # min or max
# Figures told beside 50 steps, as ratios or as differences, and which is the better of several guidances' there.
BESIDE: dict[str, tuple[np.ufunc, Better]] = {
    "depth_error": (np.divide, min),
    "probe_lpips": (np.divide, min),
    "change_accuracy": (np.subtract, max),
    "preserve_accuracy": (np.subtract, max),
}
AGAINST = ("excess", "probe_lpips", "change_accuracy", "preserve_accuracy")  # figures that rivals are compared by
BICUBIC = "bicubic"  # a rival that asks no network
LEAST_ATTRIBUTES, MOST_DEPTH = 0.9, 1.5  # of the undistilled model, as ratios to true renders


@dataclass(frozen=True)
class Finding:
    """A claim, the figure it rests on with its interval, and whether it holds."""

    claim: str
    value: float
    ci: tuple[float, float] | None
    passed: bool


def _is_undistilled(line: Line) -> bool:
    return (line["variant"], line["sampler"]) == ("undistilled", "ddim")


def undistilled(lines: list[Line]) -> dict[int, Line]:
    """The undistilled model's lines under DDIM by number of steps, at the guidance with the least excess."""
    found: dict[int, Line] = {}
    for line in lines:
        if _is_undistilled(line):
            best = found.get(int(line["steps"]), line)
            found[int(line["steps"])] = min(best, line, key=lambda each: float(each["excess"]))
    return found


def teacher(lines: list[Line], draws: Draws) -> list[Finding]:
    """The teacher's sanity: more steps never hurt, beyond the interval; what is asked for is there."""
    findings: list[Finding] = []
    # At one guidance: which one is best may differ between numbers of steps.
    full = undistilled(lines).get(FULL)
    own = undistilled([line for line in lines if full is None or _guidance(line) == _guidance(full)])
    for more, fewer in ((FULL, 8), (8, 4)):
        if more in own and fewer in own:
            value, ci = _paired(own[more], own[fewer], "excess", draws, np.subtract)
            findings.append(Finding(f"excess no higher at {more} steps than at {fewer}", value, ci, ci[0] <= 0))
    if FULL in own:
        attributes, depth = float(own[FULL]["attribute_ratio"]), float(own[FULL]["depth_ratio"])
        named = f"of true renders' at {FULL} steps"
        findings += [
            Finding(
                f"attributes at least {LEAST_ATTRIBUTES:g} {named}", attributes, None, attributes >= LEAST_ATTRIBUTES
            ),
            Finding(f"depth error at most {MOST_DEPTH:g} {named}", depth, None, depth <= MOST_DEPTH),
        ]
    return findings


def standing(lines: list[Line], line: Line, draws: Draws) -> dict[str, object]:
    """Relative excess, equivalent steps and gap closed of a student, and its other figures beside 50 steps of DDIM.

    Those by their names, as :data:`BESIDE` says, each beside the guidance that is best for it. ``equivalent_steps`` is
    None where more steps than were measured would be needed, ``gap_closed`` where it may not be quoted; ratios to what
    wasn't measured, or isn't surely above zero, are left out.
    """
    own = undistilled(lines)
    mine, m = float(line["excess"]), int(line["steps"])
    best = min((own[k] for k in own if 4 <= k <= FULL), key=lambda each: float(each["excess"]), default=None)
    enough = [k for k in sorted(own) if float(own[k]["excess"]) <= mine]
    found: dict[str, object] = {"equivalent_steps": enough[0] if enough else None, "gap_closed": None}
    if best is not None and best["excess_ci"][0] > 0:  # a ratio to nothing means nothing
        found["relative_excess"], found["relative_excess_ci"] = _paired(line, best, "excess", draws, np.divide)
    full = [each for each in lines if _is_undistilled(each) and int(each["steps"]) == FULL]
    for figure, (how, better) in BESIDE.items():
        if full and figure in line:
            other = better(full, key=lambda each, figure=figure: float(each[figure]))
            found[figure], found[f"{figure}_ci"] = _paired(line, other, figure, draws, how)
    if m in own and FULL in own:
        few, full = (float(own[k]["excess"]) for k in (m, FULL))
        if few >= 1.5 * full and own[m]["excess_ci"][0] > own[FULL]["excess_ci"][1]:
            found["gap_closed"] = (few - mine) / (few - full)
    return found


def rivals(lines: list[Line], line: Line, draws: Draws) -> list[tuple[Line, dict[str, More]]]:
    """Undistilled lines of as many network evaluations, each with how much more the student has of its figures.

    Plain enlargement, where there is such a line, is one of them. Of each sampler and guidance the line with the most
    evaluations that the student spends too; steps that cost three don't add up to four.
    """
    found: dict[tuple[object, ...], Line] = {}
    for each in sorted(lines, key=lambda other: int(other["nfe"])):
        if each["variant"] in ("undistilled", BICUBIC) and int(each["nfe"]) <= int(line["nfe"]):
            found[each["sampler"], each["guidance"], each["image_guidance"]] = each
    figures = [figure for figure in AGAINST if figure in line]
    return [
        (each, {figure: _paired(line, each, figure, draws, np.subtract) for figure in figures})
        for each in found.values()
    ]


def _guidance(line: Line) -> tuple[float, float]:
    return float(line["guidance"]), float(line["image_guidance"])


def _paired(
    one: Line, other: Line, figure: str, draws: Draws, how: Callable[[object, object], object]
) -> tuple[float, tuple[float, float]]:
    """``how`` of two lines' figures, and its interval over shared resamplings."""
    spread = how(draws[str(one["label"])][figure], draws[str(other["label"])][figure])
    return float(how(one[figure], other[figure])), interval(spread)


def summary(lines: list[Line], draws: Draws) -> dict[str, object]:
    """All of it, for ``results.json``."""
    students = [line for line in lines if line["variant"] == "distilled"]
    return {
        "teacher": [asdict(finding) for finding in teacher(lines, draws)],
        "distilled": [
            {
                "label": line["label"],
                **standing(lines, line, draws),
                "against": [{"label": each["label"], **more} for each, more in rivals(lines, line, draws)],
            }
            for line in students
        ],
    }
