"""One thread that computes for everybody."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

Made = TypeVar("Made")


class Hand:
    """Takes the steps of generators that many threads iterate over.

    A server's visitors come on dozens of threads, and each thread that computes makes libraries keep threads and memory
    for it: with 50 visitors at once the demo's memory grew by 1 MB a run, and so by a fraction of it.
    """

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        # Made in the process that first computes: on ZeroGPU that is a fork, which inherits no threads.
        return ThreadPoolExecutor(1, "hand")

    def over(self, steps: Generator[Made, None, None]) -> Iterator[Made]:
        """The same items; left early, the generator is closed by the same hand."""
        end = object()
        try:
            while (made := self._thread.submit(next, steps, end).result()) is not end:
                yield made
        finally:
            self._thread.submit(steps.close).result()
