"""The demo, served in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from app.catalog import Catalog
from app.keepsakes import Keepsakes
from app.schema import EngineLike
from app.settings import Settings
from app.ui import build_demo, launch_options
from app.ui_public import add_routes


@contextmanager
def served(
    engine: EngineLike, settings: Settings, catalog: Catalog | None = None, keepsakes: Keepsakes | None = None
) -> Iterator[tuple[gr.Blocks, str]]:
    """The page and its address, on any port that is free; closed at the end, whatever happens."""
    keepsakes = keepsakes or Keepsakes()
    demo = build_demo(engine, catalog or Catalog(), settings, keepsakes)
    options = launch_options(demo, settings) | {"server_port": None, "prevent_thread_lock": True, "quiet": True}
    app, url, _ = demo.launch(**options)
    try:
        add_routes(app, engine, keepsakes)
        yield demo, url.rstrip("/")
    finally:
        demo.close()
