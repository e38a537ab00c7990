"""The demo: ``python app.py --help``."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

from app.settings import read_settings


def main() -> None:
    """Read settings, build the engine and the page, serve it."""
    settings = read_settings(sys.argv[1:], os.environ)
    if os.environ.get("SPACES_ZERO_GPU"):
        import spaces  # noqa: F401 - before anything touches CUDA
    # Before gradio: a folder of its own, whatever lies beside it, for old files in it are deleted.
    folder = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()) / f"cdd-{settings.port}"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio: works without a network
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # of its own books, which would grow with every run
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("app").setLevel(logging.INFO)
    from app.engine import Engine

    engine = Engine(settings)
    if os.environ.get("SPACES_ZERO_GPU"):
        from app.engine_zero import on_zero_gpu

        on_zero_gpu(engine)
    else:
        engine.start()
    from app.catalog import read_catalog  # while the models load
    from app.ui import serve

    serve(engine, read_catalog(settings), settings)


if __name__ == "__main__":
    main()
