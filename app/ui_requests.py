"""Between widgets and requests: what was set, what can be set again, and the facts that an API caller gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from app.schema import (
    LANES,
    TASKS,
    CompareRequest,
    LaneReport,
    RunReport,
    StepFrame,
    TaskName,
)

# What a link, the history and a PNG may set; everything of a request but its picture.
SETTINGS = tuple(field.name for field in fields(CompareRequest) if field.name != "image")


def to_request(
    task: TaskName,
    image: str,
    prompt: str,
    seed: int | None,
    randomise: bool,
    distilled_steps: int,
    undistilled_steps: int,
    invert: bool,
    degradation: float,
    lanes: list[str] | None = None,
    rival: str = "ddim",
    pictures: int = 1,
    guidance: str | float | None = None,
    image_guidance: str | float | None = None,
    negative: str = "",
    control: float = 1.0,
    preview: str = "full",
    estimate: bool = False,
    size: int | None = None,
) -> CompareRequest:
    """The one place where widgets become a request; ``image`` is a file, and the engine judges all values."""
    return CompareRequest(
        image=image,
        prompt=prompt,
        seed=None if randomise else seed,
        distilled_steps=distilled_steps,
        undistilled_steps=undistilled_steps,
        invert=invert,
        task=task,
        degradation=degradation,
        lanes=LANES if lanes is None else lanes,
        rival=rival,
        pictures=pictures,
        guidance=guidance,
        image_guidance=image_guidance,
        negative=negative,
        control=control,
        preview=preview,
        estimate=estimate,
        size=size,
    )


def settings_of(request: CompareRequest) -> dict[str, object]:
    """What a link or the history needs to ask for the same again; the picture stays with the visitor."""
    values = {name: getattr(request, name) for name in SETTINGS}
    return {**values, "lanes": list(request.lanes)}


def settings_from(found: Mapping[str, object]) -> dict[str, object]:
    """Widget values from a link, the history, or a PNG's parameters; what isn't known or of another type is left out.

    A PNG knows its lane's ``steps``; they become the steps of that kind of model.
    """
    given = dict(found)
    if "steps" in given and given.get("variant") in ("distilled", "undistilled"):
        given[f"{given['variant']}_steps"] = given["steps"]
    defaults = {field.name: field.default for field in fields(CompareRequest)}
    kept: dict[str, object] = {}
    for name in SETTINGS:
        value = given.get(name)
        if name == "task":
            if value in TASKS:
                kept[name] = value
        elif name == "lanes":
            if isinstance(value, list) and value and set(map(str, value)) <= set(LANES):
                kept[name] = [lane for lane in LANES if lane in value]
        elif isinstance(defaults[name], bool | str):
            if type(value) is type(defaults[name]):
                kept[name] = value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            kept[name] = value
    return kept


def step_facts(frame: StepFrame) -> dict[str, object]:
    """One step, for an API caller."""
    return {
        "lane": frame.lane.key,
        "variant": frame.lane.variant,
        "picture": frame.picture,
        "seed": frame.seed,
        "step": frame.i + 1,
        "of": frame.n,
        "t": frame.t,
        "nfe": frame.nfe,
        "seconds": frame.seconds,
    }


def report_facts(report: RunReport) -> dict[str, object]:
    """A whole run, for an API caller and for the archive."""

    def facts(lane: LaneReport) -> dict[str, object]:
        return {
            "variant": lane.lane.variant,
            "sampler": lane.lane.sampler,
            "steps": lane.lane.steps,
            "timesteps": list(lane.timesteps),
            "seconds": lane.seconds,
            "ms_per_step": lane.ms_per_step,
            "nfe": lane.nfe,
            "quality": dict(lane.quality),
        }

    return {
        **settings_of(report.request),
        "family": report.family,
        "speed_up": report.speed_up,
        "lanes": {lane.lane.key: facts(lane) for lane in report.lanes},
    }
