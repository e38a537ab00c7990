"""From what a caller sent to a run that can be drawn, and what became of it: limits, lanes, the rows of a grid."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace

from PIL import Image
from torch import Tensor

from app import schema
from app.engine_models import Shelf
from app.limits import choice, choices, number, optional, text, whole
from app.schema import CompareRequest, EngineError, Lane, LaneReport, Rival, StepFrame, means, settings_of
from cdd_core.images import to_pil
from cdd_core.inference import MAX_STEPS, Plan, PromptError, check_prompt, plan
from cdd_core.loading import Model
from cdd_core.tasks import EDGES
from cdd_core.uploads import prepare, sight

LARGEST = 1024  # pixels a side
GRID_SEEDS = 4
Drawn = tuple[StepFrame, tuple[int, ...]]  # a picture's last step, and the timesteps of all


def few_steps(shelf: Shelf, task: str) -> int:
    """Most steps of the distilled model."""
    return min(schema.MAX_DISTILLED_STEPS, shelf.model(task, shelf.student(task)).card.stages)


def many_steps(shelf: Shelf, task: str, most: int) -> int:
    """Most steps of the undistilled model."""
    return min(most, shelf.model(task, "undistilled").card.stages, MAX_STEPS)


def prompt_of(shelf: Shelf, task: str, given: object) -> str:
    """A prompt as models read it; of those that learnt no words, an empty one.

    Raises:
        EngineError: it asks for nothing the model knows.
    """
    prompt = "" if shelf.wordless(task) else text(given, schema.MAX_PROMPT)
    try:
        check_prompt(shelf.model(task, shelf.student(task)), prompt)
    except PromptError as error:
        raise EngineError(str(error)) from error
    return prompt


def checked(request: CompareRequest, shelf: Shelf, most_steps: int) -> CompareRequest:
    """The request with everything inside its limits.

    Args:
        request: as it was sent.
        shelf: the models, which know what they can do.
        most_steps: of the undistilled model, by the demo's settings.

    Raises:
        EngineError: something in it can't be understood, or asks for nothing the model knows.
    """
    task = choice("task", request.task, schema.TASKS)
    undistilled = shelf.model(task, "undistilled")
    if shelf.wordless(task):
        request = replace(request, prompt="", negative="", guidance=None)
    prompt = prompt_of(shelf, task, request.prompt)
    pictures = whole("number of pictures", request.pictures, 1, schema.MAX_PICTURES)
    last = schema.MAX_SEED - pictures + 1
    seed = secrets.randbelow(last + 1) if request.seed is None else request.seed
    guidance = optional("guidance", request.guidance, 0.0, schema.MAX_GUIDANCE)
    negative = text(request.negative, schema.MAX_PROMPT)
    lanes = choices("lane", request.lanes, schema.LANES)
    rival = choice("rival", request.rival, shelf.rivals(task))
    alone = schema.unguided(lanes, rival)
    if negative and not alone and (undistilled.card.guidance if guidance is None else guidance) == 1.0:
        raise EngineError("A negative prompt acts through guidance: set the text guidance above 1, or leave it out.")
    # An enlarged picture is as large as the upload makes it.
    size = None if task == "upscale" else optional("size", request.size, 1, schema.MAX_SIZE)
    if size is not None:
        size = choice("size", int(size), shelf.sizes(task))
    return replace(
        request,
        task=task,
        prompt=prompt,
        seed=whole("seed", seed, 0, last),
        distilled_steps=whole("number of distilled steps", request.distilled_steps, 1, few_steps(shelf, task)),
        undistilled_steps=whole(
            "number of undistilled steps", request.undistilled_steps, 1, many_steps(shelf, task, most_steps)
        ),
        invert=bool(request.invert),
        degradation=number("degradation", request.degradation, 0.0, 1.0),
        lanes=lanes,
        rival=rival,
        pictures=pictures,
        guidance=guidance,
        image_guidance=optional("image guidance", request.image_guidance, 0.0, schema.MAX_GUIDANCE)
        if task == "edit" and undistilled.card.adapter == "concat"  # no other learnt to do without its picture
        else None,
        negative=negative,
        control=number("control strength", request.control, 0.0, schema.MAX_CONTROL)
        if undistilled.card.adapter == "controlnet"
        else 1.0,
        preview=choice("preview", request.preview, schema.PREVIEWS),
        estimate=bool(request.estimate) and task == "depth" and shelf.estimator is not None,
        size=size,
        lines=bool(request.lines) and task in EDGES,
    )


def largest_of(model: Model) -> int | None:
    """Most pixels a side of an enlarged picture: a page shows every step of it. None leaves it to a slow device."""
    return LARGEST if model.device.type == "cuda" else None


def plan_of(lane: Lane, request: CompareRequest, model: Model) -> Plan:
    """How a lane is sampled: an undistilled model may be guided otherwise than its card says."""
    control = request.control
    if lane.variant != "undistilled":
        return plan(model, lane.steps, lane.sampler or None, control=control)
    text, negative = request.guidance, request.negative
    if request.prompt == negative:  # there is no way to go, and it would take a step's time to find that out
        text, negative = 1.0, ""
    return plan(model, lane.steps, lane.sampler or None, text, request.image_guidance, control, negative)


def seen_by(
    models: dict[str, Model], picture: Image.Image, how: tuple[object, ...], lines: bool
) -> tuple[dict[str, Tensor], Image.Image]:
    """An upload as each model sees it, once for all lanes and pictures of a run, and for models that see alike."""
    alike: dict[tuple[object, ...], Tensor] = {}
    for model in models.values():
        if sight(model) not in alike:
            alike[sight(model)] = prepare(model, picture, *how, largest_of(model), lines)
    pixels = {variant: alike[sight(model)] for variant, model in models.items()}
    return pixels, to_pil(next(iter(pixels.values()))[0])


def in_short(request: CompareRequest) -> str:
    """A run, for the log."""
    steps = f"{request.distilled_steps}/{request.undistilled_steps}"
    return f"task={request.task} lanes={'+'.join(request.lanes)} pictures={request.pictures} steps={steps}"


def run_facts(request: CompareRequest, family: str) -> dict[str, object]:
    """How a run's pictures were made, for their files; ``settings`` ask for the whole run again."""
    facts = {"task": request.task, "family": family, "prompt": request.prompt, "seed": request.seed}
    own = ("invert", "degradation", "size", "lines")
    return {**facts, **{name: getattr(request, name) for name in own}, "settings": settings_of(request)}


def lane_facts(lane: Lane, how: Plan, seed: int) -> dict[str, object]:
    """Likewise what holds for one picture of a lane."""
    return {
        "variant": lane.variant,
        "seed": seed,
        "steps": how.steps,
        "sampler": how.sampler,
        "guidance": how.guidance.text,
        "image_guidance": how.guidance.image,
        "negative": how.negative,
        "control": how.guidance.control,
    }


def lanes_of(request: CompareRequest, student: str) -> tuple[Lane, ...]:
    """The lanes that are to be drawn; ``student`` is the variant in the distilled one."""
    few, many = request.distilled_steps, request.undistilled_steps
    every = (
        Lane("distilled", student, few),
        _beside(request.rival, few),
        Lane("full", "undistilled", many),
    )
    return tuple(lane for lane in every if lane.key in request.lanes)


def variants_of(lanes: Iterable[Lane]) -> tuple[str, ...]:
    """Which models draw them, each once."""
    return tuple(dict.fromkeys(lane.variant for lane in lanes))


def _beside(rival: Rival, steps: int) -> Lane:
    """What is drawn beside the distilled model in as many steps."""
    return Lane("same", "undistilled", steps, rival) if rival in schema.SAMPLERS else Lane("same", rival, steps)


def grid_rows(base: CompareRequest, kind: str, shelf: Shelf) -> list[tuple[str, Lane, int]]:
    """Name, lane and seed of each row of a grid.

    Args:
        base: what is drawn.
        kind: see ``schema.GridRequest``.
        shelf: the models.
    """
    seed, lane = base.seed or 0, Lane("distilled", shelf.student(base.task), 1)
    student = schema.RIVAL_NAMES.get(lane.variant, "Distilled")
    if kind == "seeds":
        return [(f"{student}, seed {seed + k}", lane, seed + k) for k in range(GRID_SEEDS)]
    rows = [(student, lane, seed)]
    for rival in shelf.rivals(base.task):
        name = schema.RIVAL_NAMES[rival]
        rows.append((f"Undistilled, {name}" if rival in schema.SAMPLERS else name, _beside(rival, 1), seed))
    return rows


def grid_cells(rows: list[tuple[str, Lane, int]], columns: list[int], few: int) -> list[tuple[int, int]]:
    """Which cells of a grid can be drawn, by row and column; a distilled model has but ``few`` steps.

    Raises:
        EngineError: none.
    """
    every = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
    found = [(i, j) for i, j in every if rows[i][1].variant == "undistilled" or columns[j] <= few]
    if not found:
        raise EngineError(f"The distilled model draws in {schema.in_words(few)} at most; choose fewer.")
    return found


def report_of(lane: Lane, drawn: list[Drawn]) -> LaneReport:
    """What became of a lane."""
    results, times = [frame for frame, _ in drawn], drawn[0][1]
    images = tuple(frame.image for frame in results)
    nfe, seconds = sum(frame.nfe for frame in results), sum(frame.seconds for frame in results)
    return LaneReport(lane, images, nfe, seconds, means(results), times)
