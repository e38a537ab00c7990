"""What can be said of a Terra landscape: four attributes, and how a batch of them is written down."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TIMES = ("noon", "sunset", "night", "dawn")
SEASONS = ("summer", "autumn", "winter", "desert")
WEATHERS = ("clear", "fog")
WATERS = ("dry", "lake")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "time": TIMES,
    "season": SEASONS,
    "weather": WEATHERS,
    "water": WATERS,
}


@dataclass(frozen=True)
class Attributes:
    """One value for each attribute; ``Attributes()`` is a clear summer noon on dry land."""

    time: str = "noon"
    season: str = "summer"
    weather: str = "clear"
    water: str = "dry"

    def __post_init__(self) -> None:
        for name, values in ATTRIBUTES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is one of {', '.join(values)}, not {getattr(self, name)!r}")

    def codes(self) -> list[int]:
        """The four indices, in the order of :data:`ATTRIBUTES`."""
        return [values.index(getattr(self, name)) for name, values in ATTRIBUTES.items()]

    @classmethod
    def from_codes(cls, codes: Tensor | list[int]) -> Attributes:
        """The inverse of :meth:`codes`; takes four integers or a tensor of shape (4,)."""
        return cls(*(values[int(code)] for values, code in zip(ATTRIBUTES.values(), codes, strict=True)))


def encode(attributes: list[Attributes]) -> Tensor:
    """A batch of attributes as an integer tensor of shape (B, 4)."""
    return torch.tensor([a.codes() for a in attributes], dtype=torch.long)
