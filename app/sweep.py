"""Uploads and results don't stay for ever: the old go, and the oldest where all together take too much space."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

YOUNG = 60.0  # seconds


class Room:
    """What may come in until the next sweep: twice the space that files may take after one.

    Args:
        budget: bytes, see :func:`sweep`.
    """

    def __init__(self, budget: int) -> None:
        self._most, self._held = 2 * budget, 0

    def swept(self, left: int) -> None:
        """So much is there now, in bytes."""
        self._held = left

    def take(self, more: int) -> bool:
        """Whether there is room for so many bytes more, which are counted as there from now on."""
        self._held += more
        return self._held <= self._most


def sweep(folder: Path, age: float, budget: int, young: float = YOUNG) -> int:
    """Delete files that haven't changed for ``age`` seconds, then the oldest until the rest fits into ``budget`` bytes.

    Folders that are empty for a while go too. Files may come and go meanwhile, also from other processes: the
    folder itself is all that is looked at, so that what a killed process left is found as well.

    Args:
        folder: to look into; itself it stays.
        age, young: seconds; below the latter a file stays in any case, for it may be on its way still.
        budget: bytes.

    Returns:
        Bytes that are left.
    """
    now, files = time.time(), []
    for place, folders, names in os.walk(folder, topdown=False):
        for path in (os.path.join(place, name) for name in names):
            with suppress(OSError):
                status = os.lstat(path)
                files.append((status.st_ctime, status.st_size, path))  # a copy may bring its mtime along
        if not folders and not names and Path(place) != folder:
            with suppress(OSError):
                if now - os.lstat(place).st_mtime > young:  # what was deleted has made it young again
                    os.rmdir(place)
    total = left = 0
    for changed, size, path in sorted(files, reverse=True):
        total += size
        if now - changed <= (age if total <= budget else young):
            left = total
            continue
        with suppress(OSError):
            os.remove(path)
    return left


def repeat(work: Callable[[], object], pause: float) -> None:
    """Do it now and, in a thread of its own, every ``pause`` seconds as long as the process lives."""

    def again() -> None:
        while True:
            try:
                work()
            except Exception:  # or it would never be done again
                log.exception("a sweep failed")
            time.sleep(pause)

    threading.Thread(target=again, name="sweep", daemon=True).start()
