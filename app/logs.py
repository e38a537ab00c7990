"""One line in the log for each run: what kind, how long, how it ended. Nothing of what was uploaded or written."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def logged(run: str) -> Iterator[None]:
    """Write the line when what is inside ends, in whichever way.

    Args:
        run: what is drawn, as ``name=value``; from values that were checked.
    """
    begin, ended = time.perf_counter(), "failed"
    try:
        yield
        ended = "done"
    except GeneratorExit:
        ended = "stopped"
        raise
    finally:
        log.info("run %s seconds=%.2f ended=%s", run, time.perf_counter() - begin, ended)
