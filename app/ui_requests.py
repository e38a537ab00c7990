"""Between widgets and requests: what was set, and what can be set again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from app.schema import (
    LANES,
    MAX_CONTROL,
    MAX_DISTILLED_STEPS,
    MAX_GUIDANCE,
    MAX_PICTURES,
    MAX_SEED,
    PREVIEWS,
    RIVALS,
    SETTINGS,
    TASKS,
    CompareRequest,
    TaskName,
)

GUIDING = ("guidance", "image_guidance", "negative")  # of the undistilled lanes alone
LIMITS = {  # of what widgets can show; the engine has its own
    "seed": (0, MAX_SEED),
    "distilled_steps": (1, MAX_DISTILLED_STEPS),
    "degradation": (0.0, 1.0),
    "pictures": (1, MAX_PICTURES),
    "guidance": (0.0, MAX_GUIDANCE),
    "image_guidance": (0.0, MAX_GUIDANCE),
    "control": (0.0, MAX_CONTROL),
}
NAMES = {"rival": RIVALS, "preview": PREVIEWS}


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
    lines: bool = False,
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
        lines=lines,
    )


def settings_from(found: Mapping[str, object]) -> dict[str, object]:
    """Widget values from a link, the history, or a PNG's parameters; what isn't known or of another type is left out.

    None stands for the models' own choice. A PNG has them under ``settings``; an older one knows how its own lane was
    drawn, whose ``steps`` become those of that kind of model.
    """
    own = found.get("settings")
    given = dict(own if isinstance(own, Mapping) else found)
    if "steps" in given and given.get("variant") in ("distilled", "undistilled"):
        given[f"{given['variant']}_steps"] = given["steps"]  # older ones know of no other variant
    if given.get("variant", "undistilled") != "undistilled":
        given = {name: value for name, value in given.items() if name not in GUIDING}
    defaults = {field.name: field.default for field in fields(CompareRequest)}
    kept: dict[str, object] = {}
    for name in SETTINGS:
        value = given.get(name)
        if value is None:
            if name in given and defaults[name] is None and name != "seed":
                kept[name] = None
        elif name == "task":
            if value in TASKS:
                kept[name] = value
        elif name == "lanes":
            if isinstance(value, list) and value and set(map(str, value)) <= set(LANES):
                kept[name] = [lane for lane in LANES if lane in value]
        elif isinstance(defaults[name], bool | str):
            if type(value) is type(defaults[name]) and value in NAMES.get(name, (value,)):
                kept[name] = value
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_SEED:
            least, most = LIMITS.get(name, (1, MAX_SEED))
            kept[name] = min(max(value, least), most)
    return kept
