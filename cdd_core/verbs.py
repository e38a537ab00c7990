"""What every verb of the command line is."""

from __future__ import annotations

from typing import Protocol


class Verb(Protocol):
    """A parsed command."""

    def run(self, extra: list[str]) -> None:
        """Do it; ``extra`` are arguments the verb itself does not know."""


def refuse(extra: list[str]) -> None:
    """Raise on leftover arguments of a verb that takes none."""
    if extra:
        raise ValueError(f"unknown arguments: {' '.join(extra)}; see --help")
