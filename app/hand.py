"""One thread that computes for everybody."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

log = logging.getLogger(__name__)
Given, Made = ParamSpec("Given"), TypeVar("Made")


class Hand:
    """Computes what many threads ask for, one thing after the other.

    A server's visitors come on dozens of threads, and each that computes makes libraries keep threads and memory for
    it: with 50 visitors at once the demo's memory grew by 1 MB a run. And with more such threads than cores, OpenMP's
    go to sleep between any two operations: on two cores a step took 90 ms instead of 57, if only the models had been
    loaded by another thread. (With a browser on the same two cores there is little to gain: it takes its share.)
    """

    def __init__(self) -> None:
        self._threads: dict[int, ThreadPoolExecutor] = {}

    def do(self, work: Callable[Given, Made], *given: Given.args) -> Made:
        """Call it there, and wait."""
        return self._thread().submit(work, *given).result()

    def over(self, steps: Generator[Made, None, None]) -> Iterator[Made]:
        """The same items; left early, the generator is closed by the same hand, before it does anything else.

        Nobody waits for that: who leaves may be the server's own loop, and the hand may be busy with others' pictures.
        """
        end = object()
        try:
            while (made := self.do(next, steps, end)) is not end:
                yield made
        finally:
            self._thread().submit(steps.close).add_done_callback(_tell)

    def _thread(self) -> ThreadPoolExecutor:
        # Each process has its own: on ZeroGPU runs take place in forks, which inherit no threads.
        own = self._threads.get(os.getpid())
        return own or self._threads.setdefault(os.getpid(), ThreadPoolExecutor(1, "hand"))


def _tell(closed: Future) -> None:
    if closed.exception() is not None:
        log.error("a run that was left didn't end well", exc_info=closed.exception())
