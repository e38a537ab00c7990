"""What the page's events do: from raw widget values to a request, from the engine's events to what is shown."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from html import escape
from urllib.parse import quote

import gradio as gr
from gradio.processing_utils import save_pil_to_cache
from PIL.Image import Image

from app.catalog import Catalog
from app.schema import (
    CompareRequest,
    EngineError,
    EngineLike,
    Event,
    LaneReport,
    RunReport,
    RunStart,
    StepFrame,
    TaskName,
)
from app.ui_examples import render_examples
from app.ui_stage import Stage, Tile, name, render, render_status, seconds
from app.ui_words import WORDS

log = logging.getLogger(__name__)

BROKEN = "Something went wrong on the server; its log says what. Try again, perhaps with another picture."
CHOSEN = "Ready: press Generate."

KEPT = {"depth": "depth-map", "edit": "picture", "upscale": "bicubic"}  # file names of what the model sees

PACE = 0.05  # seconds between two drawings of the page; fast models make more steps than a browser can show

Upload = Mapping[str, object] | None  # an image widget's value before Gradio opens the file
Shown = tuple[object, object, object]  # status, stage, seed


class Handlers:
    """The callbacks of one demo.

    Args:
        engine: draws.
        catalog: what is on offer.
        owner: the component in whose name pictures are kept, and after a while deleted.
        pace: least seconds between two drawings of the page; steps in between appear together.
    """

    def __init__(self, engine: EngineLike, catalog: Catalog, owner: gr.HTML, pace: float = PACE) -> None:
        self.engine, self.catalog, self.owner, self.pace = engine, catalog, owner, pace

    def introduce(self) -> Iterator[tuple[str, object]]:
        """Name the models, once they are loaded, and offer the tasks they can do."""
        if not self.engine.ready:
            yield '<p class="cdd-family">The models are loading; this takes a few seconds.</p>', gr.skip()
        try:
            family = self.engine.family()
        except EngineError as error:
            yield render_status("error", str(error)), gr.skip()
            return
        labels = " and ".join(self.catalog.label(family.name, variant) for variant in family.variants)
        trained = "trained by this repository" + (f" on {family.trained_on}" if family.trained_on else "")
        facts = f"{family.name}: {family.size} px, {trained}, running on {family.device.upper()}. Loaded: {labels}."
        choices = [(WORDS[task].name, task) for task in family.tasks]
        yield f'<p class="cdd-family">{escape(facts)}</p>', gr.update(choices=choices, visible=len(choices) > 1)

    def switch(self, task: TaskName) -> tuple[object, ...]:
        """The page for another task: upload, inversion, degradation, prompt, examples, status, stage."""
        words = WORDS[task]
        return (
            gr.update(value=None, label=words.image, placeholder=words.image_hint),
            gr.update(value=False, visible=task == "depth"),
            gr.update(value=0, visible=task == "upscale"),
            gr.update(value="", label=words.prompt, placeholder=words.prompt_hint, visible=bool(words.prompt)),
            render_examples(self.catalog, task, self.owner.GRADIO_CACHE),
            render_status("idle", words.idle),
            render(Stage(task)),
        )

    def pick(self, event: gr.EventData) -> tuple[str, str]:
        """An example's depth map or picture, and its prompt."""
        example = self.catalog.examples[int(event.index)]
        return str(example.file), example.prompt

    def look(self, task: TaskName, image: Upload, invert: bool, degradation: float) -> Iterator[tuple[str, str]]:
        """Show a chosen depth map or picture as the model sees it, before anything is drawn."""
        if image is None:
            yield render_status("idle", WORDS[task].idle), render(Stage(task))
            return
        try:
            seen = self.engine.look(task, str(image["path"]), bool(invert), degradation)
            condition = self._keep(seen, KEPT[task])
        except EngineError as error:
            yield render_status("error", str(error)), render(Stage(task))
            raise gr.Error(str(error), duration=6, print_exception=False) from error
        yield render_status("idle", CHOSEN), render(Stage(task, condition=condition))

    def check(self, **values: object) -> list[dict]:
        """The validator of :meth:`draw`: before queueing, one verdict for each input."""
        words = WORDS[values["task"]]
        missing = {"image": words.no_image if values["image"] is None else ""}
        missing["prompt"] = "" if str(values["prompt"] or "").strip() else words.no_prompt
        return [gr.validate(not missing.get(key), missing.get(key, "")) for key in values]

    def draw(self, **values: object) -> Iterator[Shown]:
        """Draw, and show every step as it comes; it can be stopped at every step, shown or not."""
        task = values["task"]
        stage, shown = Stage(task), 0.0
        words = "Reading the picture." if self.engine.ready else "The models are loading; this takes a few seconds."
        yield render_status("busy", words), gr.skip(), gr.skip()
        try:
            with closing(self.engine.compare(_request(**values))) as events:
                for event in events:
                    words = self._note(stage, event)
                    if stage.running and time.monotonic() - shown < self.pace:
                        yield gr.skip(), gr.skip(), gr.skip()
                        continue
                    kind = "busy" if stage.report is None else "done"
                    seed = stage.seed if isinstance(event, RunStart) else gr.skip()
                    yield render_status(kind, words, stage), render(stage), seed
                    shown = time.monotonic()
        except EngineError as error:
            yield render_status("error", str(error)), render(Stage(task)), gr.skip()
            raise gr.Error(str(error), duration=6, print_exception=False) from error
        except Exception as error:
            log.exception("a run failed")
            yield render_status("error", BROKEN), render(stage), gr.skip()
            raise gr.Error(BROKEN, duration=6, print_exception=False) from error

    def stopped(self) -> str:
        """What the page says once Stop was pressed."""
        return render_status("idle", "Stopped. What was drawn so far stays here; press Generate to start again.")

    def compare(self, **values: object) -> Iterator[tuple[Image, list[tuple[Image, str]], dict]]:
        """Compare the distilled with the undistilled model on a depth map, or on a picture and an instruction.

        Hands out, for every step of every lane, the predicted clean image and its facts; at the end the three results
        and the report.
        """
        try:
            with closing(self.engine.compare(_request(**values))) as events:
                for event in events:
                    if isinstance(event, StepFrame):
                        yield event.image, [], _step_facts(event)
                    elif isinstance(event, RunReport):
                        finals = [(r.image, f"{name(r.lane)}, {seconds(r.seconds)}") for r in event.lanes]
                        yield event.lanes[0].image, finals, _report_facts(event)
        except EngineError as error:
            raise gr.Error(str(error), duration=6, print_exception=False) from error

    def health(self) -> dict:
        """Is it up, is it loaded, is it working."""
        return {"ready": self.engine.ready, "busy": self.engine.busy, "evaluations": self.engine.evaluations}

    def _note(self, stage: Stage, event: Event) -> str:
        """Add what happened to the stage, and say it in words."""
        if isinstance(event, RunStart):
            stage.lanes, stage.seed, stage.started = event.lanes, event.request.seed or 0, True
            stage.condition = self._keep(event.condition, KEPT[stage.task])
            return "Waiting for the device."
        if isinstance(event, StepFrame):
            stage.add(Tile(self._keep(event.image, _file_name(event, stage.seed)), event))
            return f"{name(event.lane)}: step {event.i + 1} of {event.n}"
        stage.report = event
        total = sum(report.seconds for report in event.lanes)
        return f"Done: {stage.total} steps in {seconds(total)}, seed {stage.seed}."

    def _keep(self, image: Image, stem: str) -> str:
        """Put a picture, with its parameters, where Gradio serves it; returns the address, relative to the page."""
        path = save_pil_to_cache(image, self.owner.GRADIO_CACHE, name=stem, format="png")
        self.owner.temp_files.add(path)
        return f"gradio_api/file={quote(path)}"


def _request(
    task: TaskName,
    image: Upload,
    prompt: str,
    seed: int | None,
    randomise: bool,
    distilled_steps: int,
    undistilled_steps: int,
    invert: bool,
    degradation: float,
) -> CompareRequest:
    """The one place where widgets become a request; the engine judges the values."""
    if task not in WORDS:
        raise EngineError(f"The task is one of {', '.join(WORDS)}, not {str(task)[:20]!r}.")
    if image is None or not image.get("path"):
        raise EngineError(WORDS[task].no_image)
    return CompareRequest(
        image=str(image["path"]),
        prompt=prompt,
        seed=None if randomise else seed,
        distilled_steps=distilled_steps,
        undistilled_steps=undistilled_steps,
        invert=invert,
        task=task,
        degradation=degradation,
    )


def _file_name(frame: StepFrame, seed: int) -> str:
    return f"{frame.lane.variant}-{frame.n}-steps-seed-{seed}-step-{frame.i + 1:02d}"


def _step_facts(frame: StepFrame) -> dict:
    return {
        "lane": frame.lane.key,
        "variant": frame.lane.variant,
        "step": frame.i + 1,
        "of": frame.n,
        "t": frame.t,
        "nfe": frame.nfe,
        "seconds": frame.seconds,
    }


def _report_facts(report: RunReport) -> dict:
    def facts(lane: LaneReport) -> dict:
        return {
            "variant": lane.lane.variant,
            "steps": lane.lane.steps,
            "seconds": lane.seconds,
            "ms_per_step": lane.ms_per_step,
            "nfe": lane.nfe,
        }

    return {
        "seed": report.request.seed,
        "prompt": report.request.prompt,
        "invert": report.request.invert,
        "task": report.request.task,
        "degradation": report.request.degradation,
        "speed_up": report.speed_up,
        "lanes": {lane.lane.key: facts(lane) for lane in report.lanes},
    }
