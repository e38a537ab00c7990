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
    """

    height: int
    width: int
    side: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < self.side:
            raise ValueError(f"a picture of {self.width} x {self.height} has no room for a square of {self.side}")

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Top and left of every square."""
        return [(top, left) for top in self._starts(self.height) for left in self._starts(self.width)]

    def _starts(self, length: int) -> list[int]:
        """Evenly spaced, the first at the beginning and the last at the end."""
        stride = self.side * (1 - OVERLAP)
        count = 1 + max(0, -(-(length - self.side) // int(stride)))
        return [round(k * (length - self.side) / max(1, count - 1)) for k in range(count)]

    def cut(self, picture: Tensor) -> Tensor:
        """(1, C, H, W) to (T, C, side, side)."""
        side = self.side
        return torch.cat([picture[..., top : top + side, left : left + side] for top, left in self.corners])

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
