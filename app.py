"""The demo: ``python app.py --help``."""

from __future__ import annotations

import os
import sys

from app.settings import read_settings


def main() -> None:
    """Read settings, build the engine and the page, serve it."""
    settings = read_settings(sys.argv[1:], os.environ)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio: works without a network
    from app.catalog import read_catalog
    from app.engine import Engine
    from app.ui import build_demo, launch_options

    engine = Engine(settings)
    engine.start()
    build_demo(engine, read_catalog(settings), settings).launch(**launch_options(settings))


if __name__ == "__main__":
    main()
