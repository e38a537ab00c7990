"""What page and engine say to each other. Nothing else passes between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

from PIL.Image import Image

LaneKey = Literal["distilled", "same", "full"]
TaskName = Literal["depth", "edit", "upscale", "canny", "softedge"]
Sampler = Literal["ddim", "dpmsolver++", "unipc"]
Rival = Literal[Sampler, "lcm"]
Preview = Literal["full", "fast"]
RowKind = Literal["models", "seeds"]

TASKS: tuple[TaskName, ...] = get_args(TaskName)
LANES: tuple[LaneKey, ...] = get_args(LaneKey)
RIVALS: tuple[Rival, ...] = get_args(Rival)
RIVAL_NAMES: dict[Rival, str] = {"ddim": "DDIM", "dpmsolver++": "DPM-Solver++", "unipc": "UniPC", "lcm": "LCM-LoRA"}
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)  # of undistilled models; the other rivals are models
PREVIEWS: tuple[Preview, ...] = get_args(Preview)
ROWS: tuple[RowKind, ...] = get_args(RowKind)

MAX_SEED = 2**31 - 1
MAX_DISTILLED_STEPS = 8
MAX_PICTURES = 4
MAX_PROMPT = 1000  # letters; the tokenizer cuts far earlier
MAX_GUIDANCE = 20.0
MAX_CONTROL = 2.0
MAX_COLUMNS = 8  # of a grid
MAX_SIZE = 4096  # pixels a side, whatever a family says


def unguided(lanes: Sequence[str], rival: str) -> bool:
    """None of the lanes is an undistilled model's, which alone can be guided otherwise than it learnt."""
    return "full" not in lanes and ("same" not in lanes or rival not in SAMPLERS)


def in_words(steps: int) -> str:
    """``1 step``, ``4 steps``."""
    return f"{steps} step" if steps == 1 else f"{steps} steps"


class EngineError(Exception):
    """A run that can't start or go on; the message is a sentence for the visitor."""


@dataclass(frozen=True)
class CompareRequest:
    """What a visitor asks for.

    Attributes:
        image: file of a depth map, or of the photo to edit or enlarge, as uploaded.
        prompt: what to draw, or what to change; may be empty for depth.
        seed: of the noise all lanes start from; None leaves the choice to the engine. Picture k has seed + k.
        distilled_steps: of the distilled lane, and of the undistilled one beside it.
        undistilled_steps: of the undistilled lane that takes its time.
        invert: the map is dark where it is near.
        task: what the picture is for.
        degradation: of a picture to enlarge; above 0 it is made small and damaged first, with a strength up to 1.
        lanes: which of the three to draw.
        rival: in the lane with few steps, the sampler of the undistilled model, or LCM-LoRA where it is at hand.
        pictures: how many, each from its own noise.
        guidance, image_guidance, negative: of the undistilled lanes; None is their own. The distilled model is
            never guided.
        control: how strongly the condition acts, where a ControlNet sees to it.
        preview: how steps before the last are decoded.
        estimate: for depth, the picture is a photo, and its depth is to be estimated first.
        size: pixels a side, of the family's sizes; None is its own.
        lines: for outlines and edges, the picture shows them already.
        truth: what the picture should become, where that is known; it changes nothing but what a result is measured by.
    """

    image: str | Path
    prompt: str = ""
    seed: int | None = None
    distilled_steps: int = 4
    undistilled_steps: int = 50
    invert: bool = False
    task: TaskName = "depth"
    degradation: float = 0.0
    lanes: tuple[LaneKey, ...] = LANES
    rival: Rival = "ddim"
    pictures: int = 1
    guidance: float | None = None
    image_guidance: float | None = None
    negative: str = ""
    control: float = 1.0
    preview: Preview = "full"
    estimate: bool = False
    size: int | None = None
    lines: bool = False
    truth: Path | None = None


# What a link, the history and a PNG may set; everything of a request but its pictures.
SETTINGS = tuple(field.name for field in fields(CompareRequest) if field.name not in ("image", "truth"))


def settings_of(request: CompareRequest) -> dict[str, object]:
    """What is needed to ask for the same again; the picture stays with the visitor."""
    values = {name: getattr(request, name) for name in SETTINGS}
    return {**values, "lanes": list(request.lanes)}


@dataclass(frozen=True)
class Lane:
    """One of the runs: which weights, how many steps, by which sampler (the model's own if empty).

    In the distilled lane stands a public few-step model where there is no distilled one.
    """

    key: LaneKey
    variant: str
    steps: int
    sampler: str = ""


@dataclass(frozen=True)
class RunStart:
    """The run as it will be: every number inside its limits, the seed chosen.

    Attributes:
        request: what was asked for, made valid.
        lanes: in the order they are drawn.
        condition: the depth map or photo as the model sees it.
        given: for a picture to enlarge, what it is enlarged from.
        times: timesteps of each lane.
        uploaded: width and height of the picture as it came.
        truth: what the results should be, where that is known.
        quality: of the condition, readouts as those of a result.
    """

    request: CompareRequest
    lanes: tuple[Lane, ...]
    condition: Image
    given: Image | None = None
    times: Mapping[LaneKey, tuple[int, ...]] = field(default_factory=dict)
    uploaded: tuple[int, int] | None = None
    truth: Image | None = None
    quality: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class StepFrame:
    """One sampling step: number i of n at timestep t.

    Attributes:
        lane: whose step.
        i, n, t: counted from 0, how many, and the training timestep.
        nfe: network evaluations for this picture so far.
        seconds: sampling so far, and decoding of this picture; what the pictures before it cost is not counted.
        image: the clean picture predicted at this step; the last one of a lane is its result. None in what is kept.
        picture, seed: which of the run's pictures, counted from 0, and where its noise comes from.
        png: the same as a file that says how it was made.
        quality: of a result, readouts where the truth is known, by name.
        small: likewise a smaller JPEG of a large picture.
    """

    lane: Lane
    i: int
    n: int
    t: int
    nfe: int
    seconds: float
    image: Image | None
    picture: int = 0
    seed: int = 0
    png: bytes = b""
    quality: tuple[tuple[str, float], ...] = ()
    small: bytes = b""


def means(results: Sequence[StepFrame]) -> tuple[tuple[str, float], ...]:
    """Readouts of several results, each the mean of those that have it: what is withheld isn't measured."""
    found: dict[str, list[float]] = {}
    for name, value in (readout for frame in results for readout in frame.quality):
        found.setdefault(name, []).append(value)
    return tuple((name, sum(values) / len(values)) for name, values in found.items())


@dataclass(frozen=True)
class LaneReport:
    """A finished lane.

    Attributes:
        lane: which.
        images: its results, one a picture.
        nfe, seconds: over all pictures; sampling, and decoding of the results.
        quality: readouts where the truth is known, by name; means over the pictures.
        timesteps: of its steps.
    """

    lane: Lane
    images: tuple[Image, ...]
    nfe: int
    seconds: float
    quality: tuple[tuple[str, float], ...] = ()
    timesteps: tuple[int, ...] = ()

    @property
    def ms_per_step(self) -> float:
        """Milliseconds a step took on average."""
        return 1000 * self.seconds / (self.lane.steps * len(self.images))


@dataclass(frozen=True)
class RunReport:
    """A finished run.

    Attributes:
        request, lanes: what was asked for, and what became of it.
        family: whose models drew.
        notes: what files made of it say, by the keys that PNG has for them.
    """

    request: CompareRequest
    lanes: tuple[LaneReport, ...]
    family: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def speed_up(self) -> float | None:
        """How many times faster the distilled lane was than the full undistilled one; None if one is hidden."""
        seconds = {report.lane.key: report.seconds for report in self.lanes}
        if "full" not in seconds or "distilled" not in seconds:
            return None
        return seconds["full"] / max(seconds["distilled"], 1e-9)


@dataclass(frozen=True)
class GridRequest:
    """Results side by side: a row for each model or each seed, a column for each number of steps."""

    base: CompareRequest
    rows: RowKind = "models"
    columns: tuple[int, ...] = (1, 2, 4, 8)


@dataclass(frozen=True)
class GridCell:
    """So many pictures of a grid are finished; the grid so far is one labelled picture, ``notes`` go into its file."""

    done: int
    total: int
    sheet: Image
    notes: Mapping[str, str] = field(default_factory=dict)


class Seen(NamedTuple):
    """An upload as the model sees it, whether it was in colour, of which a depth map has none, and for a picture to
    enlarge the sizes it came in and is enlarged from."""

    picture: Image
    coloured: bool
    uploaded: tuple[int, int] | None = None
    given: tuple[int, int] | None = None


@dataclass(frozen=True)
class Family:
    """The models that are loaded, for the page to name.

    Attributes:
        name: folder of the family.
        size: pixels a side of its pictures.
        device: where it runs.
        trained_on: the data, as far as the cards tell.
        tasks: what they can do.
        why: this family and no other, in a few words; empty if it was asked for.
        note: what stands in the distilled lane, where no distilled model does.
        estimator: depth can be estimated from photos.
        sizes: pixels a side that can be asked for.
        checker: pictures pass a safety checker.
        controlled: tasks whose condition enters by a ControlNet, and may do so more or less strongly.
        students: the variant in the distilled lane, by task.
        wordless: tasks whose models learnt no words, so that prompts say nothing to them.
        rivals: what may stand in the undistilled lane with few steps, by task.
    """

    name: str
    size: int
    device: str
    trained_on: str
    tasks: tuple[TaskName, ...] = ("depth",)
    why: str = ""
    note: str = ""
    estimator: bool = False
    sizes: tuple[int, ...] = ()
    checker: bool = False
    controlled: tuple[TaskName, ...] = ("depth",)
    students: Mapping[TaskName, str] = field(default_factory=lambda: dict.fromkeys(TASKS, "distilled"))
    wordless: tuple[TaskName, ...] = ("upscale",)
    rivals: Mapping[TaskName, tuple[Rival, ...]] = field(default_factory=lambda: dict.fromkeys(TASKS, SAMPLERS))


Event = RunStart | StepFrame | RunReport


class EngineLike(Protocol):
    """What the page needs of an engine; see ``app.engine.Engine``, which is one."""

    @property
    def name(self) -> str: ...

    @property
    def ready(self) -> bool: ...

    @property
    def busy(self) -> bool: ...

    @property
    def evaluations(self) -> int: ...

    def family(self) -> Family: ...

    def understand(self, task: TaskName, prompt: object) -> None: ...

    def look(
        self, task: TaskName, image: str | Path, invert: bool, degradation: float, estimate: bool, lines: bool
    ) -> Seen: ...

    def compare(self, request: CompareRequest) -> Iterator[Event]: ...

    def grid(self, request: GridRequest) -> Iterator[GridCell]: ...

    def remembered(self, image: str | Path) -> dict[str, object]: ...
