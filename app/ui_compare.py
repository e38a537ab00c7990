"""The tab "Compare": what goes in on the left, what comes out on the right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import gradio as gr
from gradio.events import Dependency

from app.catalog import Catalog
from app.keepsakes import Keepsakes
from app.schema import MAX_PROMPT, RIVALS, EngineLike, TaskName
from app.settings import Settings
from app.ui_examples import build_examples, render_ideas
from app.ui_facts import build_facts
from app.ui_handlers import Handlers
from app.ui_public import DEVICE
from app.ui_scripts import (
    NAME_RUN,
    NOTE_CHOICE,
    NOTE_LOOK,
    SHOW_EXAMPLE,
    SHOW_RUN,
    UNLESS_DRAWING,
    UNLESS_SHOWN,
    WITH_PICTURE,
    script,
    stop_notes,
)
from app.ui_settings import INFO, build_advanced, build_numbers, guided, rival_choices
from app.ui_stage import Stage, render, render_status
from app.ui_tasks import Memory, Updates
from app.ui_words import PLAIN, STANDARD, WORDS, idle, preset_names

QUIET = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# Errors of events outside the queue don't reach the page.
TELLING = {**QUIET, "queue": True, "concurrency_limit": None}
LOOKS = ("invert", "degradation", "estimate", "lines")  # how a picture is to be seen
SKETCH = """
<p>Paint what is near bright and what is far dark; black is sky.</p>
<div class="cdd-canvas"><canvas width="256" height="256" tabindex="0" role="application"
aria-label="Canvas for a depth map: arrows move the brush, the space bar paints, Shift and arrows paint on"></canvas>
<i class="cdd-brush"></i></div>
<div class="cdd-bar"><label>Near<input type="range" min="0" max="100" value="70" data-near></label>
<label>Brush<input type="range" min="4" max="80" value="28" data-size></label></div>
<p class="cdd-actions"><button type="button" data-use>Use this map</button>
<button type="button" data-undo>Undo</button><button type="button" data-clear>Clear</button></p>
"""
HISTORY = """
<p data-empty>Your runs will be listed here. The list stays in this browser; the server keeps none.</p>
<ol data-names="{}"></ol><p class="cdd-actions"><button type="button" data-clear hidden>Forget all</button></p>
"""


@dataclass(frozen=True)
class Page:
    """The tab's widgets, as far as events need them.

    Attributes:
        inputs: by the names of the handlers' arguments.
        shown: status, stage and the other parts that change with the task, by name; ``memory`` for the task itself.
        go, stop, reload, history: what is pressed.
    """

    inputs: dict[str, gr.components.Component]
    shown: dict[str, gr.blocks.Block]
    go: gr.Button
    stop: gr.Button
    reload: gr.UploadButton
    history: gr.HTML

    def spread(self, handler: Callable[..., Updates]) -> Callable[..., dict]:
        """The handler with its updates by widget, as Gradio takes them."""
        widgets = {**self.inputs, **self.shown}
        nothing = {"status": gr.skip()}
        return lambda *values: {widgets[key]: update for key, update in (handler(*values) or nothing).items()}

    @property
    def everything(self) -> list[gr.blocks.Block]:
        """All that an update may touch."""
        return [*self.inputs.values(), *self.shown.values()]


def build_compare(
    demo: gr.Blocks, engine: EngineLike, catalog: Catalog, settings: Settings, keepsakes: Keepsakes
) -> tuple[Page, Handlers, Dependency]:
    """Lay out the tab and wire it; called inside ``demo``. The event is the one after which the models are known."""
    family = gr.HTML(apply_default_css=False, elem_id="family")
    page = _lay_out(catalog, settings)
    owner = page.shown["stage"]
    handlers = Handlers(engine, catalog, owner, settings.max_steps, keepsakes=keepsakes)
    told = [family, *(page.inputs[name] for name in ("task", "estimate", "size", "image", "rival"))]
    introduced = demo.load(handlers.introduce, outputs=told, api_visibility="private", concurrency_limit=None)
    # What one event sets off happens in this order: a run ends before something else takes its place on the page.
    name = gr.Textbox(visible=False, label="Run")
    chosen = _wire_run(page, handlers, _wire_examples(page, handlers, name), name)
    looks = _wire_inputs(page, handlers, introduced, chosen)
    # And what a look would say comes too late.
    drawing = [page.go.click, page.inputs["prompt"].submit, page.shown["examples"].click]
    gr.on(drawing, None, cancels=looks, api_visibility="private")
    _wire_api(page, handlers)
    return page, handlers, introduced


def _lay_out(catalog: Catalog, settings: Settings) -> Page:
    """Three blocks: on a wide screen inputs and settings stand left of the results, on a narrow one around them."""
    key = next(iter(WORDS))
    with gr.Row(elem_id="page"):
        with gr.Column(elem_id="inputs"):
            inputs, shown = _build_inputs(catalog)
            with gr.Row(elem_id="buttons"):
                go = gr.Button("Generate", variant="primary", elem_id="go")
                stop = gr.Button("Stop", variant="secondary", elem_id="stop")
        with gr.Column(elem_id="results"):
            first = render_status("idle", idle(key, catalog.offers(key)))
            shown["status"] = gr.HTML(
                first, apply_default_css=False, js_on_load=script("live", "status"), elem_id="status"
            )
            shown["stage"] = gr.HTML(
                render(Stage(key)), apply_default_css=False, js_on_load=script("stage"), elem_id="stage"
            )
        with gr.Column(elem_id="settings"):
            shown["memory"] = gr.State(None)
            shown["preset"] = gr.Radio(preset_names(key), value=STANDARD, label="Preset", elem_id="preset")
            numbers = build_numbers(settings)
            advanced = build_advanced()
            with gr.Accordion("History", open=False, elem_id="history-fold"):
                names = escape(json.dumps({task: words.name for task, words in WORDS.items()}))
                listed = HISTORY.format(names)
                history = gr.HTML(listed, apply_default_css=False, js_on_load=script("history"), elem_id="history")
            reload = gr.UploadButton(
                "Settings from a saved PNG", file_types=[".png"], variant="secondary", elem_id="reload"
            )
    # New inputs come last: callers without names count on the order.
    others = (name for name in advanced if name != "size")
    order = ("task", "image", "prompt", *numbers, "invert", "degradation", *others, "estimate", "size", "lines")
    every = {**inputs, **numbers, **advanced}
    return Page({name: every[name] for name in order}, shown, go, stop, reload, history)


def _build_inputs(catalog: Catalog) -> tuple[dict[str, gr.components.Component], dict[str, gr.blocks.Block]]:
    """Picture, prompt and what belongs to them."""
    key, words = next(iter(WORDS.items()))
    shown: dict[str, gr.blocks.Block] = {}
    # All of them, until the models are known: Gradio may forget a visitor's choices, and judges by these then.
    tasks = [(own.name, task) for task, own in WORDS.items()]
    task = gr.Radio(tasks, value=key, label="Task", visible=False, elem_id="task")
    image = gr.Image(
        label=words.image,
        type="filepath",
        image_mode=None,  # the file as uploaded: 16 bits survive
        format="png",
        sources=list(words.sources),
        placeholder=words.image_hint,
        alt_text="the picture as uploaded",
        height=190,
        elem_id="depth",
    )
    invert = gr.Checkbox(False, label="Near is dark (a map of distance)", elem_id="invert")
    estimate = gr.Checkbox(False, label="It's a photo: estimate its depth", visible=False, elem_id="estimate")
    lines = gr.Checkbox(False, label="It shows lines already", visible=False, elem_id="lines")
    degradation = gr.Slider(
        0,
        1,
        0,
        step=0.05,
        label="Make it small and damage it first",
        info="Blur, noise and compression, to see what comes back; 0 damages nothing",
        visible=False,
        elem_id="degradation",
    )
    with gr.Accordion("Draw a depth map", open=False, elem_id="sketch-fold") as shown["sketch"]:
        shown["canvas"] = gr.HTML(SKETCH, apply_default_css=False, js_on_load=script("sketch"), elem_id="sketch")
    shown["examples"] = build_examples(catalog, key)
    prompt = gr.Textbox(
        "",
        label=words.prompt,
        placeholder=words.prompt_hint,
        max_lines=3,
        max_length=MAX_PROMPT,
        elem_id="prompt",
    )
    shown["ideas"] = gr.HTML(render_ideas(key), apply_default_css=False, js_on_load=script("ideas"), elem_id="ideas")
    inputs = {"task": task, "image": image, "prompt": prompt, "invert": invert, "degradation": degradation}
    return {**inputs, "estimate": estimate, "lines": lines}, shown


def _wire_examples(page: Page, handlers: Handlers, name: gr.Textbox) -> Dependency:
    """An example fills the inputs and shows its stored results; returns the event after which it can be drawn."""
    filled = ("image", "prompt", "invert", "degradation", "estimate", "lines")
    number = gr.State(None)
    outputs = [number, *(page.inputs[name] for name in filled)]
    page.shown["examples"].click(None, None, name, js=NAME_RUN, api_visibility="private")  # Stop may come at once
    picked = page.shown["examples"].click(handlers.pick, None, outputs, **QUIET)
    # Not in the queue of those who wait for a model: what was drawn before is there at once.
    return picked.then(
        handlers.recall,
        [page.inputs["task"], page.inputs["image"], number],
        [page.shown["status"], page.shown["stage"]],
        preprocess=False,
        **TELLING,
    )


def _wire_inputs(page: Page, handlers: Handlers, introduced: Dependency, chosen: Dependency) -> list[Dependency]:
    """What happens when a picture is chosen, a task, or settings from elsewhere; returns the looks at pictures.

    Args:
        introduced: the event after which the page knows what the models can do.
        chosen: see :func:`_wire_run`.
    """
    seen = [page.inputs[name] for name in ("task", "image", *LOOKS)]
    task, image = seen[:2]
    latest = {**QUIET, "trigger_mode": "always_last"}  # of two choices in a hurry the second counts
    reading = {"concurrency_limit": 4, "concurrency_id": "look"}  # an estimate may wait for the device
    look = {
        "fn": handlers.look,
        "inputs": seen,
        "outputs": [page.shown["status"], page.shown["stage"]],
        "preprocess": False,  # gr.Image would open the file first, and fail on a bad one in its own words
        "trigger_mode": "always_last",  # pasting clears what was there, with an event of its own
        "js": UNLESS_DRAWING,
        "show_progress": "hidden",
        "api_visibility": "private",
        **reading,
    }
    drawn = page.shown["canvas"].click(handlers.draw_map, None, image, **TELLING).then(**look)
    # A new task, lest the look at the picture before come late. And not image.change: an upload may set that off twice.
    # Looks follow what ends a run, and are not of the same event: one that had to wait for another sets off all of its
    # own event once more, when its turn comes.
    known = [task, page.shown["memory"], page.inputs["prompt"], gr.Textbox(visible=False, label="Picture")]
    switched = task.input(page.spread(handlers.switch), known, page.everything, js=WITH_PICTURE, **latest).then(**look)
    looked = chosen.then(**look)

    def remember(current: TaskName, memory: Memory, prompt: str, picture: str, event: gr.EventData) -> dict:
        return page.spread(handlers.remember)(event, current, memory, prompt, picture)

    def follow(request: gr.Request) -> dict:
        return page.spread(handlers.follow)(request)

    again = {**look, "fn": handlers.look_again, "outputs": page.shown["stage"], "js": UNLESS_SHOWN}
    recalled = page.history.click(remember, known, page.everything, js=WITH_PICTURE, **QUIET).then(**again)
    saved = [page.reload, *known]
    reload = page.spread(handlers.reload)
    read = page.reload.upload(reload, saved, page.everything, js=WITH_PICTURE, **{**TELLING, **reading}).then(**again)
    introduced.then(follow, None, page.everything, **QUIET)
    preset = page.shown["preset"]
    preset.input(page.spread(handlers.choose), [task, preset], page.everything, preprocess=False, **latest)
    others = [page.inputs[name].input for name in PLAIN]
    gr.on(others, None, None, preset, js="() => null", api_visibility="private")  # these are of no preset
    lanes = [page.inputs["lanes"], page.inputs["rival"]]
    guiding = [page.inputs[name] for name in INFO]
    gr.on([each.change for each in lanes], guided, lanes, guiding, preprocess=False, **QUIET)
    looks = [drawn, switched, looked, recalled, read]
    for each in looks:
        each.then(None, js=NOTE_LOOK, api_visibility="private")
    return looks


def _wire_run(page: Page, handlers: Handlers, example: Dependency, name: gr.Textbox) -> Dependency:
    """Generate and Stop; an example that was chosen is drawn at once. The page gives every run a name.

    Returns the event that ends a run because another picture is chosen, or the same is to be seen otherwise.
    """
    status, stage = page.shown["status"], page.shown["stage"]
    starts = [page.go.click, page.inputs["prompt"].submit]
    device = {
        "inputs_kwargs": page.inputs,
        "outputs": [status, stage, page.inputs["seed"]],
        "preprocess": False,
        "validator": handlers.check,
        "trigger_mode": "once",
        "concurrency_limit": 1,
        "concurrency_id": DEVICE,
        "show_progress": "minimal",
        "show_progress_on": status,
        "api_visibility": "private",
    }
    named = {**device, "inputs_kwargs": {**page.inputs, "run": name}}
    shown = example.success(handlers.draw_again, **named)
    # Whatever an event sets off, the page waits for, one after the other. So what ends others comes first, and the run
    # follows something quick: looks at pictures are still to be ended.
    gr.on(starts, None, cancels=[example, shown], api_visibility="private")
    run = gr.on(starts, None, None, name, js=SHOW_RUN, api_visibility="private").then(handlers.draw, **named)
    # Whoever chooses something else doesn't want the rest of this.
    page.shown["examples"].click(None, js=SHOW_EXAMPLE, cancels=[run, shown], api_visibility="private")
    every = [run, example, shown]
    others = [page.inputs["task"].input, page.shown["canvas"].click, page.history.click, page.reload.upload]
    pictures = [page.inputs[name].input for name in ("image", *LOOKS)]
    gr.on([*others, *pictures], None, cancels=every, api_visibility="private")
    gr.on(others, None, js=NOTE_CHOICE, api_visibility="private")
    chosen = gr.on(pictures, None, js=NOTE_CHOICE, api_visibility="private")
    note, was_stopped = stop_notes("status")
    page.stop.click(None, js=note, api_visibility="private")
    page.stop.click(None, cancels=every, api_visibility="private")
    # Last: a step on its way to the browser would write over what is said at once.
    page.stop.click(handlers.stopped, [status, name], status, js=was_stopped, preprocess=False, **QUIET)
    return chosen


def _wire_api(page: Page, handlers: Handlers) -> None:
    """Endpoints without a place on the page."""
    nobody = gr.Button(visible=False)
    picture = gr.Image(label="Predicted clean image", format="png", visible=False)
    finals = gr.Gallery(label="Results", format="png", visible=False)
    facts = build_facts()
    device = {
        "outputs": [picture, finals, facts],
        "preprocess": False,
        "concurrency_limit": 1,
        "concurrency_id": DEVICE,
    }
    # A caller who names a seed means it. What the page offers where a family has it, callers may ask of any.
    inputs = {
        **page.inputs,
        "randomise": gr.Checkbox(False, label="Randomise", visible=False),
        "rival": gr.Dropdown(rival_choices(RIVALS), value=RIVALS[0], label="Rival", visible=False),
        "size": gr.Textbox("", label="Size", visible=False),  # a number, or nothing
    }
    nobody.click(handlers.compare, inputs_kwargs=inputs, api_name="compare", **device)
    steps = gr.Number(4, label="Steps", precision=0, visible=False)
    variant = gr.Radio(["distilled", "undistilled"], value="distilled", label="Variant", visible=False)
    own = [*(page.inputs[name] for name in ("task", "image", "prompt")), steps, page.inputs["seed"], variant]
    nobody.click(handlers.sample, own, api_name="sample", **device)
    state = gr.JSON(label="State", visible=False)
    nobody.click(handlers.health, None, state, concurrency_limit=None, api_name="health", api_visibility="undocumented")
