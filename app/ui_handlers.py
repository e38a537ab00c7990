"""What the page's events do: from widget values to a request, from the engine's events to what is shown."""

from __future__ import annotations

import base64
import binascii
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import gradio as gr

from app.catalog import Catalog
from app.keepsakes import Keepsakes
from app.limits import choice
from app.schema import (
    CompareRequest,
    EngineError,
    EngineLike,
    Event,
    Lane,
    RunReport,
    RunStart,
    StepFrame,
    TaskName,
    settings_of,
)
from app.ui_facts import report_facts, step_facts
from app.ui_files import file_name
from app.ui_keepsakes import run_of
from app.ui_public import refusal
from app.ui_requests import to_request
from app.ui_stage import Stage, Tile, made_small, name, render, render_status, render_stored, seconds
from app.ui_tasks import Tasks, told_by
from app.ui_words import WORDS

CHOSEN = "Ready: press Generate."
COLOURED = "This picture is in colour: what is bright in it is taken to be near. Press Generate, or choose a depth map."
STOPPED = "Stopped. What was drawn so far stays here."
STORED = "These results were drawn before; now watch it happen."
NO_SKETCH = "The drawing didn't arrive; press “Use this map” again."

MOST_SKETCH = 2_000_000  # letters of a drawn map
HALTED = 1000  # names of stopped runs that are remembered
LONGEST_NAME = 64
PNG = b"\x89PNG\r\n\x1a\n"  # how every such file begins
PACE = 0.05  # seconds between two drawings of the page; fast models make more steps than a browser can show

Upload = Mapping[str, object] | None  # an image widget's value before Gradio opens the file
Shown = tuple[object, object, object]  # status, stage, seed
Streamed = tuple[str, list[tuple[str, str]], dict]  # a picture's file, the results with their names, facts


class Handlers(Tasks):
    """The callbacks of one demo.

    Args:
        engine: draws.
        catalog: what is on offer.
        owner: the component in whose name pictures are kept, and after a while deleted.
        most: steps of an undistilled model.
        pace: least seconds between two drawings of the page; steps in between appear together.
        keepsakes: of runs, for those who want to save them; its own if left out.
    """

    def __init__(
        self,
        engine: EngineLike,
        catalog: Catalog,
        owner: gr.HTML,
        most: int = 50,
        pace: float = PACE,
        keepsakes: Keepsakes | None = None,
    ) -> None:
        super().__init__(engine, catalog, owner, most)
        self.pace, self.keepsakes = pace, keepsakes or Keepsakes()
        self.halted: deque[str] = deque(maxlen=HALTED)

    def pick(self, event: gr.EventData) -> tuple[int, str, str, bool, float, bool, bool]:
        """An example's number, its depth map or picture, its prompt, and nothing done to the picture before."""
        number = choice("example", told_by(event, "index"), tuple(range(len(self.catalog.examples))))
        example = self.catalog.examples[number]
        file = self.files.store(example.file.read_bytes(), example.file.name)  # Gradio serves it wherever it came from
        return number, file, example.prompt, False, 0.0, False, False

    def recall(self, task: TaskName, image: Upload, number: int | None) -> Iterator[tuple[str, str]]:
        """What the shipped models once made of the chosen example, if they did; it asks no model."""
        task = choice("task", task, tuple(WORDS))
        example = self.catalog.examples[number] if number is not None else None
        stored = [s for s in example.stored if s.family == self.engine.name] if example is not None else []
        if not stored:
            yield render_status("idle", CHOSEN), render(Stage(task))
            return
        given = self.files.keep(example.file.read_bytes(), example.file.name)
        results = [
            (Lane(s.lane, s.variant, s.steps), self.files.keep(s.file.read_bytes(), s.file.name), s.nfe) for s in stored
        ]
        enlarged = stored[0].size() if task == "upscale" else (0, 0)
        yield render_status("idle", STORED), render_stored(task, given, results, enlarged)

    def draw_map(self, event: gr.EventData) -> str:
        """A map drawn on the canvas, as a file for the upload widget."""
        given, content = told_by(event, "picture"), b""
        if isinstance(given, str) and len(given) <= MOST_SKETCH:
            with suppress(binascii.Error, ValueError):
                content = base64.b64decode(given.removeprefix("data:image/png;base64,"), validate=True)
        if not content.startswith(PNG):
            raise gr.Error(NO_SKETCH, duration=6, print_exception=False)
        return self.files.store(content, "drawn-map.png")

    def look(
        self,
        task: TaskName | None,
        image: Upload,
        invert: bool,
        degradation: float,
        estimate: bool = False,
        lines: bool = False,
    ) -> Iterator[tuple[str, str]]:
        """Show a chosen depth map or picture as the model sees it, before anything is drawn.

        Nothing is shown without a task: so the page sends what was asked for before a run that goes on by now.
        """
        if task is None:
            yield gr.skip(), gr.skip()
            return
        try:
            task = choice("task", task, tuple(WORDS))
            if image is None:
                yield render_status("idle", self.idle(task)), render(Stage(task))
                return
            path = self.files.uploaded(image, self.no_image(task))
            seen = self.engine.look(task, path, bool(invert), degradation, bool(estimate), bool(lines))
            condition = self.files.keep_picture(seen.picture, f"{WORDS[task].file}.png")
            enlarged = seen.picture.size if seen.given else (0, 0)
            words = COLOURED if task == "depth" and not estimate and seen.coloured else CHOSEN
            if told := made_small(seen.uploaded, seen.given, bool(degradation)):
                width, height = seen.picture.size
                words = f"{CHOSEN} What is enlarged, to {width} × {height}, is {told}."
        except Exception as error:
            told = refusal(error)
            # Raised, it would have the page forget what was chosen meanwhile.
            gr.Warning(told.message, duration=told.duration)
            yield render_status("error", told.message), _blank(task)
            return
        yield render_status("idle", words), render(Stage(task, condition=condition, enlarged=enlarged))

    def look_again(self, *values: object) -> Iterator[str]:
        """Likewise, once settings came from elsewhere: that they did is what the status goes on saying."""
        for _, stage in self.look(*values):
            yield stage

    def check(self, **values: object) -> list[dict]:
        """The validator of :meth:`draw`: before queueing, one verdict for each input."""
        if values["task"] not in tuple(WORDS):  # compared, not hashed: it may be anything
            return [gr.validate(key != "task", "This task isn't one of those offered.") for key in values]
        words = WORDS[values["task"]]
        with suppress(EngineError):
            self.files.uploaded(values["image"], "")  # keeps it while the run waits
        missing = {"image": self.no_image(values["task"]) if values["image"] is None else ""}
        missing["prompt"] = "" if str(values["prompt"] or "").strip() else words.no_prompt
        if not missing["prompt"] and self.engine.ready:
            try:
                self.engine.understand(values["task"], values["prompt"])
            except EngineError as error:
                missing["prompt"] = str(error)
        missing["lanes"] = "" if values["lanes"] else "Choose at least one lane."
        return [gr.validate(not missing.get(key), missing.get(key, "")) for key in values]

    def draw(self, **values: object) -> Iterator[Shown]:
        """Draw, and show every step as it comes; it can be stopped at every step, shown or not."""
        yield from self._draw(values)

    def draw_again(self, **values: object) -> Iterator[Shown]:
        """Likewise, and what was drawn before stays until the first step comes."""
        yield from self._draw(values, keep=True)

    def _draw(self, values: dict[str, object], keep: bool = False) -> Iterator[Shown]:
        task, run = values["task"], values.pop("run", "")

        def page() -> object:
            drawn = stage.tiles if keep else stage.started
            return render(stage) if drawn else gr.skip()  # what was drawn before stays until there is something new

        stage, shown = Stage(task), 0.0
        words = "Reading the picture." if self.engine.ready else "The models are loading; this takes a few seconds."
        yield render_status("busy", words), gr.skip(), gr.skip()
        try:
            with closing(self.engine.compare(self.request(**values))) as events:
                for event in events:
                    if self.halts(run):
                        yield render_status("idle", STOPPED), gr.skip(), gr.skip()
                        return
                    words = self._note(stage, event)
                    if stage.running and time.monotonic() - shown < self.pace:
                        yield gr.skip(), gr.skip(), gr.skip()
                        continue
                    kind = "busy" if stage.report is None else "done"
                    seed = stage.seed if isinstance(event, RunStart) else gr.skip()
                    yield render_status(kind, words, stage), page(), seed
                    shown = time.monotonic()
        except Exception as error:
            told = refusal(error)
            yield render_status("error", told.message), page(), gr.skip()
            raise told from error

    def request(self, **values: object) -> CompareRequest:
        """What the widgets ask for.

        Raises:
            EngineError: no such task, or no picture that was uploaded here.
        """
        task = choice("task", values["task"], tuple(WORDS))
        image = self.files.uploaded(values["image"], self.no_image(task))
        asked = to_request(**{**values, "image": image})
        return replace(asked, truth=self.catalog.truth(task, Path(image), str(asked.prompt)))

    def halts(self, run: str) -> bool:
        """A run of this name was stopped."""
        return bool(run) and run in self.halted

    def stopped(self, going_on: str, run: str) -> object:
        """What the page says once Stop was pressed; nothing new if there was nothing to stop.

        The page cancels what it knows of; a run that the server hasn't answered yet ends by its name.

        Args:
            going_on: empty if nothing was.
            run: name that the page gave to its last run.
        """
        self.halted.append(str(run)[:LONGEST_NAME])
        return render_status("idle", STOPPED) if going_on else gr.skip()

    def compare(self, **values: object) -> Iterator[Streamed]:
        """Compare the distilled with the undistilled model on a depth map, or on a picture and an instruction.

        Hands out, for every step of every lane, the predicted clean image and its facts; at the end the results and
        the report.
        """
        yield from self._stream(lambda: self.request(**values))

    def sample(
        self, task: TaskName, image: Upload, prompt: str, steps: int, seed: int | None, variant: str
    ) -> Iterator[Streamed]:
        """Draw one picture with the distilled or the undistilled model; hands out every step, at the end the result."""

        def request() -> CompareRequest:
            if variant not in ("distilled", "undistilled"):
                raise EngineError(f"The variant is distilled or undistilled, not {str(variant)[:20]!r}.")
            lane = "distilled" if variant == "distilled" else "full"
            own = {"task": task, "image": image, "prompt": prompt, "seed": seed, "randomise": seed is None}
            steps_and_more = {"distilled_steps": steps, "undistilled_steps": steps, "invert": False, "degradation": 0.0}
            return self.request(**own, **steps_and_more, lanes=[lane])

        yield from self._stream(request)

    def health(self) -> dict:
        """Is it up, is it loaded, is it working."""
        return {"ready": self.engine.ready, "busy": self.engine.busy, "evaluations": self.engine.evaluations}

    def _stream(self, request: Callable[[], CompareRequest]) -> Iterator[Streamed]:
        """A run for an API caller: every picture as the file that says how it was made."""
        results: list[tuple[str, str]] = []
        try:
            with closing(self.engine.compare(request())) as events:
                for event in events:
                    if isinstance(event, StepFrame):
                        path = self.files.store(event.png, file_name(event))
                        if event.i + 1 == event.n:
                            results.append((path, f"{name(event.lane)}, seed {event.seed}"))
                        yield path, [], step_facts(event)
                    elif isinstance(event, RunReport):
                        yield results[0][0], results, report_facts(event)
        except Exception as error:
            raise refusal(error) from error

    def _note(self, stage: Stage, event: Event) -> str:
        """Add what happened to the stage, and say it in words."""
        if isinstance(event, RunStart):
            stage.lanes, stage.seed, stage.started = event.lanes, event.request.seed or 0, True
            stage.pictures, stage.settings = event.request.pictures, settings_of(event.request)
            stage.times, stage.quality = event.times, event.quality
            stage.condition = self.files.keep_picture(event.condition, f"{WORDS[stage.task].file}.png")
            if event.given:
                stage.given = self.files.keep_picture(event.given, "small.png")
                damaged = event.request.degradation > 0
                whole = "made small and damaged" if damaged else "what there is, pixel by pixel"
                stage.given_note = made_small(event.uploaded, event.given.size, damaged) or whole
                stage.enlarged = event.condition.size
            if event.truth:
                stage.truth = self.files.keep_picture(event.truth, "truth.png")
            return "Waiting for the device."
        if isinstance(event, StepFrame):
            file = file_name(event)
            url = self.files.keep(event.png, file)
            small = self.files.keep(event.small, f"{Path(file).stem}-small.jpg") if event.small else ""
            stage.add(Tile(url, replace(event, image=None, png=b"", small=b""), small))
            which = f", picture {event.picture + 1} of {stage.pictures}" if stage.pictures > 1 else ""
            return f"{name(event.lane)}: step {event.i + 1} of {event.n}{which}"
        stage.report = event
        stage.files = self.keepsakes.keep(run_of(stage, event, self.files.store))
        total = sum(report.seconds for report in event.lanes)
        return f"Done: {stage.total} steps, {seconds(total)} of sampling, seed {stage.seed}."


def _blank(task: object) -> str:
    """The stage of a task before anything is drawn; of the first one if there is no such task."""
    return render(Stage(task if task in tuple(WORDS) else next(iter(WORDS))))
