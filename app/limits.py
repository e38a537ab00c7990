"""What a caller sent, made valid: numbers inside their limits, names that exist. Sliders can't vouch for the API."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

from app.schema import EngineError

Name = TypeVar("Name", bound=str | int)


def whole(name: str, value: object, low: int, high: int) -> int:
    """A whole number inside its limits.

    Raises:
        EngineError: it isn't a number.
    """
    try:
        return min(max(int(float(str(value))), low), high)
    except (ValueError, OverflowError):
        raise EngineError(f"The {name} must be a whole number, not {str(value)[:20]!r}.") from None


def number(name: str, value: object, low: float, high: float) -> float:
    """Likewise any number."""
    try:
        given = float(str(value))
    except ValueError:
        given = math.nan
    if math.isnan(given):
        raise EngineError(f"The {name} must be a number, not {str(value)[:20]!r}.")
    return min(max(given, low), high)


def optional(name: str, value: object, low: float, high: float) -> float | None:
    """Likewise, where leaving it out has a meaning."""
    return None if value is None or value == "" else number(name, value, low, high)


def text(value: object, most: int) -> str:
    """So many letters, nothing if it's left out; half letters (lone surrogates), which can't be written, as “?”."""
    return str(value or "")[:most].encode(errors="replace").decode()


def choice(name: str, value: object, known: tuple[Name, ...]) -> Name:
    """One of the names that exist.

    Raises:
        EngineError: it is none of them.
    """
    for candidate in known:
        if value == candidate:
            return candidate
    raise EngineError(f"The {name} is one of {', '.join(map(str, known))}, not {str(value)[:20]!r}.")


def choices(name: str, values: object, known: tuple[Name, ...]) -> tuple[Name, ...]:
    """Some of the names that exist, in their own order, at least one.

    Raises:
        EngineError: there are others among them, or none at all.
    """
    given = [values] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    wanted = {choice(name, value, known) for value in given}
    if not wanted:
        raise EngineError(f"Choose at least one {name}: {', '.join(known)}.")
    return tuple(candidate for candidate in known if candidate in wanted)
