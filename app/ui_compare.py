"""The tab "Compare": what goes in on the left, what comes out on the right."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from app.catalog import Catalog
from app.schema import MAX_DISTILLED_STEPS, MAX_PROMPT, MAX_SEED, EngineLike
from app.settings import Settings
from app.ui_examples import build_examples
from app.ui_handlers import Handlers
from app.ui_stage import Stage, render, render_status
from app.ui_words import WORDS

DEVICE = "device"  # everything that draws queues under this name, one at a time
# A run should be seen: on a narrow screen the results stand below the button, on a low one they may be scrolled away.
SHOW_RESULTS = """() => {
    const results = document.getElementById("results");
    if (!document.querySelector("#depth img")) return;
    const narrow = window.innerWidth < 900;
    if (narrow || results.getBoundingClientRect().top < 0)
        (narrow ? document.getElementById("buttons") : results).scrollIntoView({behavior: "smooth"});
}"""


@dataclass(frozen=True)
class Page:
    """The tab's widgets, as far as events need them."""

    inputs: dict[str, gr.components.Component]  # by the names of the handlers' arguments
    examples: gr.HTML
    go: gr.Button
    stop: gr.Button
    status: gr.HTML
    stage: gr.HTML


def build_compare(demo: gr.Blocks, engine: EngineLike, catalog: Catalog, settings: Settings) -> None:
    """Lay out the tab and wire it; called inside ``demo``."""
    family = gr.HTML(apply_default_css=False, elem_id="family")
    page = _lay_out(catalog, settings)
    handlers = Handlers(engine, catalog, owner=page.stage)
    told = [family, page.inputs["task"]]
    demo.load(handlers.introduce, outputs=told, api_visibility="private", concurrency_limit=None)
    _wire(page, handlers)
    _wire_api(page, handlers)


def _lay_out(catalog: Catalog, settings: Settings) -> Page:
    """Three blocks: on a wide screen inputs and settings stand left of the results, on a narrow one around them."""
    key, words = next(iter(WORDS.items()))
    with gr.Row(elem_id="page"):
        with gr.Column(elem_id="inputs"):
            task = gr.Radio([(words.name, key)], value=key, label="Task", visible=False, elem_id="task")
            image = gr.Image(
                label=words.image,
                type="filepath",
                image_mode=None,  # the file as uploaded: 16 bits survive
                format="png",
                sources=["upload"],
                placeholder=words.image_hint,
                alt_text="the picture as uploaded",
                height=190,
                elem_id="depth",
            )
            invert = gr.Checkbox(False, label="Near is dark (a map of distance)", elem_id="invert")
            degradation = gr.Slider(
                0,
                1,
                0,
                step=0.05,
                label="Make it small and damage it first",
                info="Blur, noise and compression, to see what comes back; 0 enlarges the picture as it is",
                visible=False,
                elem_id="degradation",
            )
            examples = build_examples(catalog, key)
            prompt = gr.Textbox(
                label=words.prompt,
                placeholder=words.prompt_hint,
                max_lines=3,
                max_length=MAX_PROMPT,
                elem_id="prompt",
            )
            with gr.Row(elem_id="buttons"):
                go = gr.Button("Generate", variant="primary", elem_id="go")
                stop = gr.Button("Stop", variant="secondary", elem_id="stop")
        with gr.Column(elem_id="results"):
            status = gr.HTML(render_status("idle", words.idle), apply_default_css=False, elem_id="status")
            stage = gr.HTML(render(Stage()), apply_default_css=False, elem_id="stage")
        with gr.Column(elem_id="settings"):
            numbers = _numbers(settings)
    inputs = {"task": task, "image": image, "prompt": prompt, **numbers, "invert": invert, "degradation": degradation}
    return Page(inputs, examples, go, stop, status, stage)


def _numbers(settings: Settings) -> dict[str, gr.components.Component]:
    """How many steps, and which noise."""
    distilled = gr.Slider(1, MAX_DISTILLED_STEPS, 4, step=1, label="Distilled steps", elem_id="distilled-steps")
    most = settings.max_steps
    undistilled = gr.Slider(1, most, min(50, most), step=1, label="Undistilled steps", elem_id="undistilled-steps")
    with gr.Row(elem_id="seeds"):
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed")
        randomise = gr.Checkbox(True, label="Randomise", elem_id="randomise")
    return {
        "seed": seed,
        "randomise": randomise,
        "distilled_steps": distilled,
        "undistilled_steps": undistilled,
    }


def _wire(page: Page, handlers: Handlers) -> None:
    """Generate, Stop, and what happens when a depth map is chosen."""
    task, image, invert, degradation = (page.inputs[k] for k in ("task", "image", "invert", "degradation"))
    look = {
        "fn": handlers.look,
        "inputs": [task, image, invert, degradation],
        "outputs": [page.status, page.stage],
        "preprocess": False,  # gr.Image would open the file first, and fail on a bad one in its own words
        "show_progress": "hidden",
        "concurrency_limit": 2,
        "concurrency_id": "look",
        "api_visibility": "private",
    }
    gr.on(
        [image.input, invert.input, degradation.release], **look
    )  # not image.change: an upload may set that off twice
    picked = page.examples.click(
        handlers.pick, None, [image, page.inputs["prompt"]], queue=False, api_visibility="private"
    )
    picked.then(**look)
    task.input(
        handlers.switch,
        task,
        [image, invert, degradation, page.inputs["prompt"], page.examples, page.status, page.stage],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    starts = [page.go.click, page.inputs["prompt"].submit]
    gr.on(starts, None, js=SHOW_RESULTS, api_visibility="private")
    run = gr.on(
        starts,
        handlers.draw,
        inputs_kwargs=page.inputs,
        outputs=[page.status, page.stage, page.inputs["seed"]],
        preprocess=False,
        validator=handlers.check,
        trigger_mode="once",
        concurrency_limit=1,
        concurrency_id=DEVICE,
        show_progress="minimal",
        show_progress_on=page.status,
        api_visibility="private",
    )
    halted = page.stop.click(None, cancels=[run], api_visibility="private")
    # Only then: a step on its way to the browser would write over what is said at once.
    halted.then(handlers.stopped, None, page.status, queue=False, show_progress="hidden", api_visibility="private")


def _wire_api(page: Page, handlers: Handlers) -> None:
    """Endpoints without a place on the page."""
    nobody = gr.Button(visible=False)
    picture = gr.Image(label="Predicted clean image", format="png", visible=False)
    finals = gr.Gallery(label="Results", format="png", visible=False)
    facts = gr.JSON(label="Facts", visible=False)
    nobody.click(
        handlers.compare,
        inputs_kwargs=page.inputs,
        outputs=[picture, finals, facts],
        preprocess=False,
        concurrency_limit=1,
        concurrency_id=DEVICE,
        api_name="compare",
    )
    nobody.click(handlers.health, None, facts, concurrency_limit=None, api_name="health", api_visibility="undocumented")
