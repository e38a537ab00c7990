"""Lets one run at a time onto the device, and hands out every step as it is drawn."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from app import schema
from app.engine_files import files_of
from app.engine_models import Shelf
from app.engine_pace import Pace
from app.engine_quality import Readouts
from app.engine_requests import (
    Drawn,
    checked,
    few_steps,
    grid_cells,
    grid_rows,
    in_short,
    lane_facts,
    lanes_of,
    many_steps,
    plan_of,
    prompt_of,
    report_of,
    run_facts,
    seen_by,
    variants_of,
)
from app.hand import Hand
from app.limits import choice, choices, number, whole
from app.logs import logged
from app.schema import (
    CompareRequest,
    EngineError,
    Event,
    Family,
    GridCell,
    GridRequest,
    Lane,
    RunReport,
    RunStart,
    Seen,
    StepFrame,
    TaskName,
    in_words,
)
from app.settings import Settings
from app.sheets import labelled_sheet
from cdd_core.images import ImageError, is_coloured, open_image, original_size
from cdd_core.inference import Plan, draw, timesteps
from cdd_core.loading import Model
from cdd_core.memory import share_freed_memory
from cdd_core.png import notes, read_parameters
from cdd_core.quiet import quiet_libraries
from cdd_core.tasks import UPSCALE

log = logging.getLogger(__name__)

ENOUGH = 2048  # pixels a side of an upload, of which models see a half at the most
BUSY_SECONDS = 120.0  # how long a run waits for another to leave the device
LOOK_SECONDS = 20.0  # likewise somebody who only wants to see the depth of a photo


class Engine:
    """The distilled and the undistilled models behind one lock.

    Args:
        settings: where the weights are, where to run, limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hand = Hand()
        self._shelf = Shelf(settings, self._hand)
        self._device = threading.Lock()  # not an RLock: a stopped run may be closed by another thread

    @property
    def name(self) -> str:
        """The family that is loaded, or will be."""
        return self._shelf.family

    @property
    def ready(self) -> bool:
        """The models are loaded."""
        return self._shelf.ready

    @property
    def busy(self) -> bool:
        """A run holds the device."""
        return self._device.locked()

    @property
    def evaluations(self) -> int:
        """Times the denoising network has run since the start, whoever asked."""
        return self._shelf.evaluations

    def start(self) -> None:
        """Begin loading in the background; a run that comes too early waits for it."""
        quiet_libraries()
        share_freed_memory()
        threading.Thread(target=self._load_quietly, name="load models", daemon=True).start()

    def family(self) -> Family:
        """What is loaded; waits until it is.

        Raises:
            EngineError: the weights can't be loaded.
        """
        shelf, tasks = self._shelf, self._shelf.tasks()
        first, students = shelf.model(tasks[0], "undistilled"), {task: shelf.student(task) for task in tasks}
        note = shelf.model(tasks[0], students[tasks[0]]).card.provenance.get("note", "")
        return Family(
            shelf.family,
            first.size,
            first.device.type,
            shelf.data(),
            tasks,
            shelf.why,
            str(note),
            shelf.estimator is not None,
            shelf.sizes(tasks[0]),
            shelf.safety is not None,
            tuple(task for task in tasks if shelf.model(task, "undistilled").card.adapter == "controlnet"),
            students,
            tuple(task for task in tasks if shelf.wordless(task)),
            {task: shelf.rivals(task) for task in tasks},
        )

    def understand(self, task: TaskName, prompt: object) -> None:
        """Nothing if a prompt can be drawn, as far as can be said before its turn comes.

        Raises:
            EngineError: it asks for nothing the model knows.
        """
        prompt_of(self._shelf, choice("task", task, self._shelf.tasks()), prompt)

    def look(
        self,
        task: TaskName,
        image: str | Path,
        invert: bool = False,
        degradation: float = 0.0,
        estimate: bool = False,
        lines: bool = False,
    ) -> Seen:
        """A depth map or photo as the model sees it.

        Raises:
            EngineError: it can't be used.
        """
        strength = number("degradation", degradation, 0.0, 1.0)
        asked = CompareRequest(image, invert=invert, degradation=strength, task=task, estimate=estimate, lines=lines)
        picture = self._opened(image)
        seen = self._prepared(picture, asked, (self._shelf.student(task),), LOOK_SECONDS)[1]
        sizes = (original_size(picture), (seen.width // UPSCALE, seen.height // UPSCALE)) if task == "upscale" else ()
        return Seen(seen, task == "depth" and is_coloured(picture), *sizes)

    def remembered(self, image: str | Path) -> dict[str, object]:
        """The settings that a picture drawn here was made with.

        Raises:
            EngineError: it can't be read, or says nothing of the kind.
        """
        found = read_parameters(self._opened(image))
        if not found or "task" not in found or "seed" not in found:
            raise EngineError("This picture doesn't say how it was made; choose a PNG that was saved from here.")
        return found

    def compare(self, request: CompareRequest) -> Iterator[Event]:
        """Draw all lanes from the same noise: a :class:`RunStart`, a :class:`StepFrame` a step, a :class:`RunReport`.

        Closing the iterator stops after the step that is being drawn and frees the device.

        Raises:
            EngineError: the input can't be used, the weights are missing, the device stays busy, or the run takes
                longer than a run may.
        """
        request = checked(request, self._shelf, self._settings.max_steps)
        picture = self._opened(request.image)
        lanes = lanes_of(request, self._shelf.student(request.task))
        pixels, seen = self._prepared(picture, request, variants_of(lanes))
        times = {lane.key: timesteps(*self._planned(lane, request)) for lane in lanes}
        readouts = Readouts(self._shelf, picture, request)
        given, truth, told = self._hand.do(readouts.before, seen)
        start = RunStart(request, lanes, seen, given, times, original_size(picture), truth, told)
        yield start
        with self._turn(), logged(in_short(request)):
            pace = Pace(self._settings.max_seconds, request.pictures * sum(lane.steps for lane in lanes))
            yield from self._hand.over(self._lanes(start, pixels, readouts, pace))

    def _lanes(
        self, start: RunStart, pixels: dict[str, Tensor], readouts: Readouts, pace: Pace
    ) -> Iterator[StepFrame | RunReport]:
        """All pictures of all lanes, and what came out."""
        request, drawn = start.request, {lane: [] for lane in start.lanes}
        for number_of in range(request.pictures):
            for lane in start.lanes:
                run = self._draw(lane, pixels[lane.variant], request, number_of, pace, readouts)
                drawn[lane].append((yield from run))
        reports = [report_of(lane, results) for lane, results in drawn.items()]
        family = self._shelf.family
        yield RunReport(request, tuple(reports), family, notes(run_facts(request, family)))

    def grid(self, request: GridRequest) -> Iterator[GridCell]:
        """Draw one picture after the other into a labelled sheet, handed out as it grows.

        Raises:
            EngineError: as :meth:`compare`.
        """
        kind = choice("kind of row", request.rows, schema.ROWS)
        lanes = schema.LANES if kind == "models" else ("distilled",)
        base = checked(replace(request.base, pictures=1, lanes=lanes), self._shelf, self._settings.max_steps)
        rows = grid_rows(base, kind, self._shelf)
        pixels, _ = self._prepared(self._opened(base.image), base, variants_of(row[1] for row in rows))
        few, most = few_steps(self._shelf, base.task), many_steps(self._shelf, base.task, self._settings.max_steps)
        columns = sorted({whole("number of steps", n, 1, most) for n in request.columns[: schema.MAX_COLUMNS]})
        plan = grid_cells(rows, columns, few)
        columns = columns[: 1 + max(j for _, j in plan)]  # the distilled model alone has none beyond
        names, heads = [row[0] for row in rows], [in_words(steps) for steps in columns]
        pictures = whole("number of pictures", request.base.pictures, 1, schema.MAX_PICTURES)
        page = replace(base, pictures=pictures, lanes=choices("lane", request.base.lanes, schema.LANES))  # as chosen
        said = notes({**run_facts(page, self._shelf.family), "rows": kind, "columns": columns})
        cells: dict[tuple[int, int], Image.Image] = {}

        def drawn() -> Iterator[GridCell]:
            pace = Pace(self._settings.max_seconds, sum(columns[j] for _, j in plan))
            for i, j in plan:
                _, lane, seed = rows[i]
                asked = replace(base, seed=seed, preview="none")  # results are all that a grid shows
                run = self._draw(replace(lane, steps=columns[j]), pixels[lane.variant], asked, 0, pace)
                with closing(run):
                    for frame in run:
                        cells[i, j] = frame.image
                sheet = labelled_sheet(names, heads, cells, f"seed {base.seed}" if kind == "models" else "")
                yield GridCell(len(cells), len(plan), sheet, said)

        with self._turn(), logged(f"task={base.task} grid={kind} steps={'+'.join(map(str, columns))}"):
            yield from self._hand.over(drawn())

    @contextmanager
    def _turn(self, patience: float | None = None) -> Iterator[None]:
        """The device to oneself."""
        if not self._device.acquire(timeout=BUSY_SECONDS if patience is None else patience):
            raise EngineError("The device is still busy with another run; try again in a minute.")
        try:
            yield
        finally:
            self._device.release()

    def _draw(
        self,
        lane: Lane,
        pixels: Tensor,
        request: CompareRequest,
        number_of: int,
        pace: Pace,
        readouts: Readouts | None = None,
    ) -> Generator[StepFrame, None, Drawn]:
        """One picture of a lane, measured if it is told how."""
        times: list[int] = []
        (model, how), seed = self._planned(lane, request), (request.seed or 0) + number_of
        facts = {**run_facts(request, self._shelf.family), **lane_facts(lane, how, seed)}
        steps = draw(model, pixels, request.prompt, seed, how, request.preview)
        with closing(steps):
            while True:
                pace.check()
                step = next(steps)
                pace.count()
                last, times = step.i + 1 == step.n, [*times, step.t]
                if step.image is None:
                    continue
                passed = self._passed(step.image)
                said = {**facts, "step": step.i + 1, "timestep": step.t, "nfe": step.nfe}
                image, png, small = files_of(passed, said, self._settings.watermark)
                measured = last and readouts is not None and passed is step.image
                told = readouts.of(passed) if measured else ()
                known = (lane, step.i, step.n, step.t, step.nfe, step.sampling + step.decoding)
                frame = StepFrame(*known, image, number_of, seed, png, told, small)
                yield frame
                if last:
                    return frame, tuple(times)

    def _planned(self, lane: Lane, request: CompareRequest) -> tuple[Model, Plan]:
        """Which model draws a lane, and how."""
        model = self._shelf.model(request.task, lane.variant)
        return model, plan_of(lane, request, model)

    def _passed(self, image: Image.Image) -> Image.Image:
        """The picture, or another in its place that the safety checker doesn't object to."""
        return image if self._shelf.safety is None else self._shelf.safety.passed(image)

    def _prepared(
        self,
        picture: Image.Image,
        request: CompareRequest,
        variants: tuple[str, ...],
        patience: float | None = None,
    ) -> tuple[dict[str, Tensor], Image.Image]:
        """The upload as each model sees it, and as people can see that of the first.

        A depth estimator takes its turn on the device.
        """
        models = {variant: self._shelf.model(request.task, variant) for variant in variants}
        estimator = self._shelf.estimator if request.estimate and request.task == "depth" else None
        how = (request.invert, request.degradation, estimator, request.size)
        try:
            with nullcontext() if estimator is None else self._turn(patience):
                return self._hand.do(seen_by, models, picture, how, request.lines)
        except ImageError as error:
            raise EngineError(str(error)) from error

    def _opened(self, image: str | Path) -> Image.Image:
        try:
            return open_image(image, self._settings.max_megapixels << 20, ENOUGH)
        except ImageError as error:
            raise EngineError(str(error)) from error

    def _load_quietly(self) -> None:
        try:
            self._shelf.tasks()
        except EngineError as error:
            log.warning("%s", error)  # the page says it too, and a later visitor tries again
