"""A picture of any size as overlapping squares of the size a model draws, and back without seams."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OVERLAP = 0.25  # of a square's side, at least


@dataclass(frozen=True)
class Tiling:
    """Squares that cover a picture, row by row.

    Attributes:
        height, width: of the picture, neither smaller than ``side``.
        side: of the squares.
        unit: pixels that a latent stands for; squares begin where one does, those at the far ends aside.
    """

    height: int
    width: int
    side: int
    unit: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width) < self.side:
            raise ValueError(f"a picture of {self.width} x {self.height} has no room for a square of {self.side}")

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Top and left of every square."""
        return [(top, left) for top in self._starts(self.height) for left in self._starts(self.width)]

    def _starts(self, length: int) -> list[int]:
        """Evenly spaced, the first at the beginning and the last at the end."""
        last, stride = length - self.side, int(self.side * (1 - OVERLAP)) // self.unit * self.unit
        count = 1 - (-last // stride)
        return [*(self.unit * round(k * last / (count - 1) / self.unit) for k in range(count - 1)), last]

    def cut(self, picture: Tensor) -> Tensor:
        """(1, C, H, W) to (T, C, side, side)."""
        side = self.side
        return torch.cat([picture[..., top : top + side, left : left + side] for top, left in self.corners])

    def noise(self, channels: int, generator: torch.Generator) -> Tensor:
        """One draw for all of the picture, cut alike: (T, channels, side / unit, side / unit).

        Where squares overlap they begin alike, so they draw much the same there, and blending them blurs little.
        """
        side, height, width = (-(-length // self.unit) for length in (self.side, self.height, self.width))
        whole = torch.randn((1, channels, height, width), generator=generator)
        corners = ((top // self.unit, left // self.unit) for top, left in self.corners)
        return torch.cat([whole[..., top : top + side, left : left + side] for top, left in corners])

    def blend(self, squares: Tensor) -> Tensor:
        """(T, C, side, side) to (1, C, H, W): where squares overlap, each counts by its distance from its own edge."""
        ramp = torch.arange(1, self.side + 1, device=squares.device, dtype=squares.dtype)
        ramp = torch.minimum(ramp, ramp.flip(0))
        weight = ramp[:, None] * ramp
        total = squares.new_zeros(1, squares.shape[1], self.height, self.width)
        weights = squares.new_zeros(1, 1, self.height, self.width)
        for square, (top, left) in zip(squares, self.corners, strict=True):
            place = (..., slice(top, top + self.side), slice(left, left + self.side))
            total[place] += weight * square
            weights[place] += weight
        return total / weights
