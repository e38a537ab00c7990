"""The tab "Grid": models or seeds down, numbers of steps across, drawn into one labelled picture."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import gradio as gr

from app.schema import LANES, EngineError, GridRequest
from app.sheets import sheet_file
from app.ui_compare import Page
from app.ui_handlers import STOPPED, Handlers
from app.ui_public import DEVICE, refusal
from app.ui_scripts import NAME_RUN, script, stop_notes
from app.ui_stage import render_status

FEW = "Choose a picture and a prompt under Compare; then draw them here with many settings at once."
NO_COLUMNS = "Choose at least one number of steps."
COLUMNS = (1, 2, 4, 8, 20, 50)
PACE = 1.0  # seconds from one sheet to the next; each is a large file
ROWS = [("Distilled and undistilled samplers", "models"), ("Four seeds of the distilled model", "seeds")]


def build_grid(page: Page, handlers: Handlers) -> None:
    """Lay out the tab and wire it; called inside the page, after the tab "Compare"."""
    gr.Markdown(FEW, elem_id="grid-words")
    offered = [steps for steps in COLUMNS if steps <= handlers.most]
    with gr.Row():
        rows = gr.Radio(ROWS, value="models", label="Rows", elem_id="grid-rows")
        columns = gr.CheckboxGroup(offered, value=offered[:4], label="Steps", elem_id="grid-columns")
    with gr.Row(elem_id="grid-buttons"):
        go = gr.Button("Draw the grid", variant="primary", elem_id="grid-go")
        stop = gr.Button("Stop", variant="secondary", elem_id="grid-stop")
    status = gr.HTML(
        render_status("idle", ""), apply_default_css=False, js_on_load=script("live"), elem_id="grid-status"
    )
    sheet = gr.HTML("", apply_default_css=False, elem_id="grid-sheet")

    name = gr.Textbox(visible=False, label="Run")

    def named(values: tuple[object, ...]) -> dict[str, object]:
        """Of the other tab; that it draws no lane is of no concern here."""
        given = dict(zip(page.inputs, values, strict=True))
        return {**given, "lanes": given["lanes"] or list(LANES)}

    def draw(run: str, rows: str, columns: list[int], *values: object) -> Iterator[tuple[str, object]]:
        yield from draw_grid(handlers, rows, columns, named(values), run)

    def check(run: str, rows: str, columns: list[int], *values: object) -> list[dict]:
        """What is wrong with inputs of the other tab is told by the run: beside themselves nobody would see it."""
        others = len(handlers.check(**named(values)))  # asked all the same: it keeps the upload while the run waits
        fine = gr.validate(True, "")
        return [fine, fine, gr.validate(bool(columns), NO_COLUMNS), *others * [fine]]

    run = go.click(None, None, name, js=NAME_RUN, api_visibility="private").then(
        draw,
        [name, rows, columns, *page.inputs.values()],
        [status, sheet],
        preprocess=False,
        validator=check,
        trigger_mode="once",
        concurrency_limit=1,
        concurrency_id=DEVICE,
        show_progress="minimal",
        show_progress_on=status,
        api_visibility="private",
    )
    note, was_stopped = stop_notes("grid-status")
    stop.click(None, js=note, api_visibility="private")
    stop.click(None, cancels=[run], api_visibility="private")
    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    stop.click(handlers.stopped, [status, name], status, js=was_stopped, preprocess=False, **quiet)


def draw_grid(
    handlers: Handlers, rows: str, columns: list[int], values: dict[str, object], run: str = ""
) -> Iterator[tuple[str, object]]:
    """Status and sheet, once for every finished picture.

    Args:
        handlers: of the page.
        rows: see ``schema.GridRequest``.
        columns: numbers of steps.
        values: of the widgets under Compare.
        run: its name, see ``Handlers.stopped``.
    """
    if handlers.halts(run):
        yield render_status("idle", STOPPED), gr.skip()
        return
    yield render_status("busy", "Reading the picture."), gr.skip()
    try:
        if not columns:
            raise EngineError(NO_COLUMNS)
        wrong = next((each["message"] for each in handlers.check(**values) if not each["is_valid"]), "")
        if wrong:
            raise EngineError(wrong)
        columns = columns if isinstance(columns, list) else [columns]
        request = GridRequest(handlers.request(**values), rows, tuple(columns))
        with closing(handlers.engine.grid(request)) as cells:
            shown, sheet = 0.0, gr.skip()
            for cell in cells:
                if handlers.halts(run):
                    yield render_status("idle", STOPPED), gr.skip()
                    return
                words = f"{cell.done} of {cell.total} pictures" if cell.done < cell.total else "Done."
                if cell.done == cell.total or time.monotonic() - shown > PACE:
                    url = handlers.files.keep(sheet_file(cell.sheet, cell.notes), "cdd-grid.png")
                    sheet = f'<img src="{url}" alt="grid of results, {words}"><p class="cdd-actions">'
                    sheet += f'<a href="{url}" download>Save PNG</a></p>'
                    shown = time.monotonic()
                kind = "busy" if cell.done < cell.total else "done"
                yield render_status(kind, words, progress=(cell.done, cell.total)), sheet
    except Exception as error:
        told = refusal(error)
        yield render_status("error", told.message), gr.skip()
        raise told from error
