"""Sets of pictures that are read by number: one after the other, or enlarged as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cdd_core.data.degrade import enlarged
from cdd_core.tasks import UPSCALE


class Pictures(Protocol):
    """Pictures by their number, from memory or disk."""

    def __len__(self) -> int: ...

    def images(self, rows: np.ndarray) -> Tensor:
        """In [-1, 1], shape (B, 3, S, S)."""


@dataclass(frozen=True)
class Joined:
    """Several sets of pictures, one after the other."""

    parts: tuple[Pictures, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def images(self, rows: np.ndarray) -> Tensor:
        """In [-1, 1], shape (B, 3, S, S)."""
        ends = np.cumsum([len(part) for part in self.parts])
        which = np.searchsorted(ends, rows, side="right")
        starts = np.concatenate([[0], ends])[which]
        found = [self.parts[k].images(np.array([row])) for k, row in zip(which, rows - starts, strict=True)]
        return torch.cat(found)


@dataclass(frozen=True)
class Enlarged:
    """Small pictures, plainly enlarged as they are read.

    Attributes:
        small: uint8, shape (N, 3, S / 4, S / 4).
    """

    small: np.ndarray

    def __len__(self) -> int:
        return len(self.small)

    def images(self, rows: np.ndarray) -> Tensor:
        """Pictures in [-1, 1], shape (B, 3, S, S)."""
        return enlarged_bytes(torch.from_numpy(np.asarray(self.small[rows]))) * 2 - 1


def enlarged_bytes(small: Tensor) -> Tensor:
    """Bytes (B, 3, h, w) as the super-resolution models are shown them, float32 in [0, 1], four times as large."""
    return enlarged(small.float() / 255, (UPSCALE * small.shape[-2], UPSCALE * small.shape[-1]))
