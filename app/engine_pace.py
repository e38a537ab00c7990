"""How a run gets on: it is ended when it has taken too long, or as soon as it is plain that it will."""

from __future__ import annotations

import time
from statistics import median

from app.schema import EngineError

TRIED = 12  # steps, before anything is said of those to come: the first ones are slow
HOPELESS = 1.5  # times what a run may take


class Pace:
    """The clock of one run; it starts at once.

    Args:
        seconds: that the run may take.
        steps: of all its pictures.
    """

    def __init__(self, seconds: float, steps: int) -> None:
        self._seconds, self._steps = seconds, steps
        self._begin = self._before = time.monotonic()
        self._taken: list[float] = []

    def count(self) -> None:
        """A step is done."""
        now = time.monotonic()
        self._taken.append(now - self._before)
        self._before = now

    def check(self) -> None:
        """Before a step.

        Raises:
            EngineError: the run has taken longer than it may, or will take far longer.
        """
        passed = time.monotonic() - self._begin
        if passed > self._seconds:
            raise EngineError(
                f"This run took longer than the {self._seconds:g} seconds a run may take here; "
                f"ask for fewer steps, fewer pictures or a smaller one."
            )
        if len(self._taken) < TRIED:
            return
        whole = passed + median(self._taken) * (self._steps - len(self._taken))
        if whole > HOPELESS * self._seconds:
            raise EngineError(
                f"This run would take about {whole:.0f} seconds, and one may take {self._seconds:g} here; "
                f"ask for fewer steps, fewer pictures or a smaller one."
            )
