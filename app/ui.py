"""The page as a whole."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from app.catalog import Catalog
from app.gate import Gate
from app.keepsakes import Keepsakes
from app.schema import TASKS, EngineLike
from app.settings import Settings
from app.sweep import Room, repeat, sweep
from app.ui_about import build_about
from app.ui_compare import build_compare
from app.ui_examples import render_examples
from app.ui_grid import build_grid
from app.ui_public import STUMBLES, add_routes, guard_calls, guard_queue

TITLE = "Conditional diffusion distillation"
INTRODUCTION = f"""
# {TITLE}

One picture to go by, one wish, the same noise: drawn in a few steps by a distilled model, in many by the original.
"""
DAY = 24 * 3600  # seconds that uploads and results stay
PAUSE = 60  # seconds between two sweeps
SESSIONS = 64  # that Gradio remembers; each takes 0.14 MB, and every call from a program is one


def build_demo(
    engine: EngineLike, catalog: Catalog, settings: Settings, keepsakes: Keepsakes | None = None
) -> gr.Blocks:
    """The page, wired to an engine; nothing is loaded or launched.

    Args:
        engine: draws.
        catalog: what is on offer.
        settings: how it runs.
        keepsakes: where :func:`serve` finds the runs whose files are asked for.
    """
    keepsakes = keepsakes or Keepsakes()
    with gr.Blocks(title=TITLE, fill_width=True, analytics_enabled=False) as demo:
        gr.Markdown(INTRODUCTION, elem_id="introduction")
        with gr.Tabs():
            with gr.Tab("Compare"):
                page, handlers, introduced = build_compare(demo, engine, catalog, settings, keepsakes)
            with gr.Tab("Grid"):
                build_grid(page, handlers)
            with gr.Tab("About"):
                build_about(engine, settings, introduced)
    demo.queue(api_open=False)
    guard_queue(demo, settings.queue_size, settings.per_visitor, settings.proxies)
    guard_calls(demo)
    return demo


def serve(engine: EngineLike, catalog: Catalog, settings: Settings) -> None:
    """Build the page, and listen until interrupted."""
    keepsakes, budget = Keepsakes(), settings.max_files_mb << 20
    demo, room = build_demo(engine, catalog, settings, keepsakes), Room(budget)

    def tidy() -> None:
        renew(demo, catalog)
        room.swept(sweep(Path(demo.GRADIO_CACHE), DAY, budget))

    repeat(tidy, PAUSE)
    app, _, _ = demo.launch(**launch_options(demo, settings, room), prevent_thread_lock=True)
    add_routes(app, engine, keepsakes)
    demo.block_thread()


def renew(demo: gr.Blocks, catalog: Catalog) -> None:
    """Before a sweep: make the files that the page itself needs young again, or bring them back."""
    for task in TASKS:
        render_examples(catalog, task, demo.GRADIO_CACHE)
    for names in demo.temp_file_sets:
        names.clear()  # Gradio notes every file for a sweep of its own, which would trip over runs that go on


def launch_options(demo: gr.Blocks, settings: Settings, room: Room | None = None) -> dict[str, object]:
    """How Gradio serves the page: built-in theme and fonts, so that no request leaves the machine."""
    queue, room = demo._queue, room or Room(settings.max_files_mb << 20)

    def awaited(event: str) -> bool:
        waiting = queue.pending_event_ids_session.items()  # of each session those whose end it hasn't heard of
        return any(event in own and session in queue.pending_messages_per_session for session, own in waiting)

    return {
        "server_name": settings.host,
        "server_port": settings.port,
        "max_file_size": f"{settings.max_upload_mb}mb",
        "theme": _theme(),
        "css_paths": [Path(__file__).with_name("style.css")],
        "footer_links": ["api", "settings"],
        "run_history": False,
        "mcp_server": settings.mcp,
        "enable_monitoring": False,
        "_frontend": False,  # Gradio would ask itself for the page, and give up on a machine that needs 3 s for it
        "state_session_capacity": SESSIONS,
        "app_kwargs": {
            "exception_handlers": STUMBLES,
            "middleware": [Middleware(Gate, largest=settings.max_upload_mb << 20, awaited=awaited, room=room.take)],
        },
    }


def _theme() -> gr.themes.Base:
    """Gradio's own, with text and buttons dark enough to read (WCAG AA)."""
    return gr.themes.Default(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        # Bold, not the usual semibold: that file, as Gradio ships it, holds few letters.
        font=(gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"),
    ).set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        link_text_color="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
    )
