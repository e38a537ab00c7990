"""Depth maps and pictures to try, as a row of buttons with a picture and a name."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from app.catalog import Catalog
from app.schema import TaskName
from app.ui_words import WORDS

# One listener for all buttons; the handler learns which from the event's data. While a run goes on they rest: live.js.
ON_LOAD = """
element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) trigger("click", {index: Number(button.dataset.index)});
});
"""


def build_examples(catalog: Catalog, task: TaskName) -> gr.HTML:
    """The buttons; a click carries the example's ``index``. Hidden if there are no examples."""
    widget = gr.HTML(js_on_load=ON_LOAD, apply_default_css=False, visible=bool(catalog.examples), elem_id="examples")
    widget.value = render_examples(catalog, task, widget.GRADIO_CACHE)
    return widget


def render_examples(catalog: Catalog, task: TaskName, cache: str) -> str:
    """The buttons of one task.

    Args:
        catalog: on offer.
        task: whose examples.
        cache: folder from which Gradio serves the pictures.
    """
    buttons = []
    for index, example in enumerate(catalog.examples):
        if example.task != task:
            continue
        address = f"gradio_api/file={quote(save_file_to_cache(example.file, cache))}"
        wish = f"{example.prompt}. " if example.prompt else ""
        hint = escape(f"{wish}{WORDS[task].image}: {example.source}. {example.licence}")
        buttons.append(
            f'<button type="button" data-index="{index}" title="{hint}">'
            f'<img src="{address}" alt=""><span>{escape(example.title)}</span></button>'
        )
    if not buttons:
        return ""
    return f'<p>Examples</p><div class="cdd-examples" role="group" aria-label="Examples">{"".join(buttons)}</div>'


def render_ideas(task: TaskName) -> str:
    """Words the model knows, as buttons: combined into a prompt, or whole instructions for an edit."""
    whole = " data-whole" if task == "edit" else ""
    buttons = "".join(
        f'<button type="button" data-idea="{escape(idea)}"{whole}>{escape(idea)}</button>' for idea in WORDS[task].ideas
    )
    return f'<div class="cdd-ideas" role="group" aria-label="Ideas for the prompt">{buttons}</div>' if buttons else ""
