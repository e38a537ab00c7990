"""What follows from a table (docs/metrics.md): whether the teacher is sane, and how a student stands to it.

Lines are those of ``results.json``; ``draws`` holds, for every line's label, each figure under the same resamplings of
the scenes, so that a difference of two lines has an interval of its own. All of it is one probe's; :func:`seen_by`
gives another's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np

from cdd_core.evaluation.metrics import NAMES, RATIOS, interval

Line = dict[str, object]
Spread = dict[str, np.ndarray]  # of each figure, under every resampling
Draws = dict[str, Spread]
More = tuple[float, tuple[float, float]]  # a difference or a ratio, and its interval

FIRST = "A"  # the probe whose figures have plain names in a line
FULL = 50  # steps of the undistilled model that others are compared with
# Figures told beside 50 steps, as differences or as ratios.
BESIDE: dict[str, np.ufunc] = {
    "excess": np.subtract,
    "depth_error": np.divide,
    "probe_lpips": np.divide,
    "change_accuracy": np.subtract,
    "preserve_accuracy": np.subtract,
}
AGAINST = ("excess", "probe_lpips", "change_accuracy", "preserve_accuracy")  # figures that rivals are compared by
COMPARED = tuple(dict.fromkeys((*BESIDE, *AGAINST)))  # figures whose draws are needed
BICUBIC = "bicubic"  # a rival that asks no network
# Of the undistilled model at 50 steps, as ratios to true renders.
LEAST = {"attribute_accuracy": 0.9, "change_accuracy": 0.9, "preserve_accuracy": 0.95}
MOST = {"depth_error": 1.5}


@dataclass(frozen=True)
class Finding:
    """A claim, the figure it rests on with its interval, and whether it holds."""

    claim: str
    value: float
    ci: tuple[float, float]
    passed: bool


def seen_by(lines: list[Line], probe: str) -> list[Line]:
    """The lines with this probe's figures under the plain names."""
    if probe == FIRST:
        return lines
    mark = re.compile(f"_{probe.lower()}(?=(_ci)?$)")
    return [line | {mark.sub("", name): value for name, value in line.items() if mark.search(name)} for line in lines]


def _ddim(lines: list[Line]) -> list[Line]:
    """The undistilled model under its own sampler."""
    return [line for line in lines if (line["variant"], line["sampler"]) == ("undistilled", "ddim")]


def teacher(lines: list[Line], draws: Draws) -> list[Finding]:
    """The teacher's sanity, at the guidance it is made for: more steps never hurt, beyond the interval; what is asked
    for is there."""
    findings: list[Finding] = []
    own = {int(line["steps"]): line for line in _ddim(lines) if line["own_guidance"]}
    for more, fewer in ((FULL, 8), (8, 4)):
        if more in own and fewer in own:
            value, ci = _paired(own[more], own[fewer], "excess", draws, np.subtract)
            claim = f"excess with {more} steps, less that with {fewer}: not surely above 0"
            findings.append(Finding(claim, value, ci, ci[0] <= 0))
    if FULL not in own:
        return findings
    for limits, word in ((LEAST, "at least"), (MOST, "at most")):
        for figure, limit in limits.items():
            if (ratio := RATIOS[figure]) in own[FULL]:
                value, ci = float(own[FULL][ratio]), own[FULL][f"{ratio}_ci"]
                claim = f"{NAMES[figure]} {word} {limit:g} of true renders' with {FULL} steps"
                findings.append(Finding(claim, value, ci, value >= limit if limits is LEAST else value <= limit))
    return findings


def standing(lines: list[Line], line: Line, draws: Draws) -> dict[str, object]:
    """Relative excess, equivalent steps and gap closed of a student, against DDIM at whichever guidance is better.

    ``equivalent_steps``, with the evaluations that they cost, are None where more than was measured would be needed.
    ``relative_excess`` is left out where that of the undistilled model isn't surely above zero, and ``gap_closed`` is
    None where it may not be quoted.
    """
    own, mine = _ddim(lines), float(line["excess"])
    spread = {str(each["label"]): draws[str(each["label"])]["excess"] for each in [*own, line]}
    enough = [each for each in sorted(own, key=lambda each: int(each["nfe"])) if float(each["excess"]) <= mine]
    found: dict[str, object] = {
        "equivalent_steps": int(enough[0]["steps"]) if enough else None,
        "equivalent_evaluations": int(enough[0]["nfe"]) if enough else None,
        "gap_closed": None,
    }
    many = [each for each in own if 4 <= int(each["steps"]) <= FULL]
    if many:
        least = np.min([spread[str(each["label"])] for each in many], axis=0)  # which is least may differ by draw
        if interval(least)[0] > 0:  # a ratio to nothing means nothing
            found["relative_excess"] = mine / min(float(each["excess"]) for each in many)
            found["relative_excess_ci"] = interval(spread[str(line["label"])] / least)
    cheap = min(_as_cheap(own, line), key=lambda each: float(each["excess"]), default=None)
    full = next((each for each in own if int(each["steps"]) == FULL and each["own_guidance"]), None)
    if cheap is not None and full is not None:
        few, most = float(cheap["excess"]), float(full["excess"])
        if few >= 1.5 * most and cheap["excess_ci"][0] > full["excess_ci"][1]:
            few_drawn, most_drawn = spread[str(cheap["label"])], spread[str(full["label"])]
            found["gap_closed"] = (few - mine) / (few - most)
            closed = (few_drawn - spread[str(line["label"])]) / (few_drawn - most_drawn)
            found["gap_closed_ci"] = interval(closed)
    return found


def _as_cheap(lines: list[Line], line: Line) -> list[Line]:
    """Of each sampler and guidance the line with the most evaluations that this one spends too."""
    found: dict[tuple[object, ...], Line] = {}
    for each in sorted(lines, key=lambda other: int(other["nfe"])):
        if int(each["nfe"]) <= int(line["nfe"]):
            found[each["sampler"], each["guidance"], each["image_guidance"]] = each
    return list(found.values())


def beside(lines: list[Line], line: Line, draws: Draws) -> list[tuple[Line, dict[str, More]]]:
    """The undistilled model's 50 steps of DDIM at each guidance, its own first, and a student's figures beside them."""
    full = [each for each in _ddim(lines) if int(each["steps"]) == FULL]
    return [
        (each, {name: _paired(line, each, name, draws, how) for name, how in BESIDE.items() if name in line})
        for each in sorted(full, key=lambda each: not each["own_guidance"])
    ]


def rivals(lines: list[Line], line: Line, draws: Draws) -> list[tuple[Line, dict[str, More]]]:
    """Undistilled lines of as many network evaluations, each with how much more the student has of its figures.

    Plain enlargement, where there is such a line, is one of them. Steps that cost three don't add up to four, so a
    rival may spend fewer evaluations.
    """
    others = [each for each in lines if each["variant"] in ("undistilled", BICUBIC)]
    figures = [figure for figure in AGAINST if figure in line]
    return [
        (each, {figure: _paired(line, each, figure, draws, np.subtract) for figure in figures})
        for each in _as_cheap(others, line)
    ]


def disagreements(lines: list[Line], draws: dict[str, Draws]) -> list[tuple[str, Line, Line]]:
    """A figure and two lines that the probes put in opposite order, each surely: a paired interval has one sign."""
    found: list[tuple[str, Line, Line]] = []
    for figure in (figure for figure in AGAINST if figure in lines[0]):
        for one, other in combinations(lines, 2):
            signs = set()
            for own in draws.values():
                low, high = interval(own[str(one["label"])][figure] - own[str(other["label"])][figure])
                signs |= {1} if low > 0 else {-1} if high < 0 else set()
            if len(signs) == 2:
                found.append((figure, one, other))
    return found


def _paired(
    one: Line, other: Line, figure: str, draws: Draws, how: Callable[[object, object], object]
) -> tuple[float, tuple[float, float]]:
    """``how`` of two lines' figures, and its interval over shared resamplings."""
    spread = how(draws[str(one["label"])][figure], draws[str(other["label"])][figure])
    return float(how(one[figure], other[figure])), interval(spread)


def summary(lines: list[Line], draws: dict[str, Draws]) -> dict[str, object]:
    """All of it by each probe, for ``results.json``."""
    return {"probes": {name: _summary(seen_by(lines, name), own) for name, own in draws.items()}}


def _summary(lines: list[Line], draws: Draws) -> dict[str, object]:
    students = [line for line in lines if line["variant"] == "distilled"]
    told = {"beside": beside, "against": rivals}
    return {
        "teacher": [asdict(finding) for finding in teacher(lines, draws)],
        "distilled": [
            {"label": line["label"], **standing(lines, line, draws)}
            | {
                name: [{"label": each["label"], **more} for each, more in how(lines, line, draws)]
                for name, how in told.items()
            }
            for line in students
        ],
    }
