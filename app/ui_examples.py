"""Depth maps to try, as a row of buttons with a picture and a name."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from app.catalog import Catalog

# One listener for all buttons; the handler learns which from the event's data.
ON_LOAD = """
element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) trigger("click", {index: Number(button.dataset.index)});
});
"""


def build_examples(catalog: Catalog) -> gr.HTML:
    """The buttons; a click carries the example's ``index``. Hidden if there are no examples."""
    widget = gr.HTML(js_on_load=ON_LOAD, apply_default_css=False, visible=bool(catalog.examples), elem_id="examples")
    buttons = []
    for index, example in enumerate(catalog.examples):
        address = f"gradio_api/file={quote(save_file_to_cache(example.file, widget.GRADIO_CACHE))}"
        hint = escape(f"{example.prompt}. Depth map: {example.source}. {example.licence}")
        buttons.append(
            f'<button type="button" data-index="{index}" title="{hint}">'
            f'<img src="{address}" alt=""><span>{escape(example.title)}</span></button>'
        )
    widget.value = (
        f'<p>Examples</p><div class="cdd-examples" role="group" aria-label="Examples">{"".join(buttons)}</div>'
    )
    return widget
