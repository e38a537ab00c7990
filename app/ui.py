"""The page as a whole."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from app.catalog import Catalog
from app.schema import EngineLike
from app.settings import Settings
from app.ui_about import build_about
from app.ui_compare import build_compare
from app.ui_grid import build_grid
from app.ui_public import add_health, guard_queue

TITLE = "Conditional diffusion distillation"
INTRODUCTION = f"""
# {TITLE}

One depth map, one prompt, the same noise: drawn in a few steps by a distilled model, in many by the original.
"""
HOUR = 3600


def build_demo(engine: EngineLike, catalog: Catalog, settings: Settings) -> gr.Blocks:
    """The page, wired to an engine; nothing is loaded or launched."""
    with gr.Blocks(title=TITLE, fill_width=True, analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR)) as demo:
        gr.Markdown(INTRODUCTION, elem_id="introduction")
        with gr.Tabs():
            with gr.Tab("Compare"):
                page, handlers = build_compare(demo, engine, catalog, settings)
            with gr.Tab("Grid"):
                build_grid(page, handlers)
            with gr.Tab("About"):
                build_about(demo, engine, settings)
    demo.queue(max_size=settings.queue_size, api_open=False)
    guard_queue(demo, settings.per_visitor, settings.behind_proxy)
    return demo


def serve(demo: gr.Blocks, engine: EngineLike, settings: Settings) -> None:
    """Listen until interrupted."""
    app, _, _ = demo.launch(**launch_options(settings), prevent_thread_lock=True)
    add_health(app, engine)
    demo.block_thread()


def launch_options(settings: Settings) -> dict[str, object]:
    """How Gradio serves the page: built-in theme and fonts, so that no request leaves the machine."""
    return {
        "server_name": settings.host,
        "server_port": settings.port,
        "max_file_size": f"{settings.max_upload_mb}mb",
        "theme": _theme(),
        "css_paths": [Path(__file__).with_name("style.css")],
        "footer_links": ["api", "settings"],
        "run_history": False,
        "mcp_server": settings.mcp,
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
