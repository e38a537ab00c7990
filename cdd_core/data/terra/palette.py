"""Colours of Terra, as display values in [0, 1]; one row for each value of an attribute."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """The sky and its lamp at one time of day. Angles in degrees, strengths without unit."""

    zenith: RGB
    horizon: RGB
    sun: RGB
    ambient: RGB
    cloud: RGB
    cloud_shade: RGB
    elevation: float
    strength: float
    glow: float


LIGHTS = {
    "noon": Light(
        (0.16, 0.40, 0.78),
        (0.70, 0.84, 0.95),
        (1.0, 0.96, 0.86),
        (0.32, 0.38, 0.48),
        (0.99, 0.99, 1.0),
        (0.72, 0.77, 0.84),
        52.0,
        0.80,
        0.35,
    ),
    "sunset": Light(
        (0.26, 0.22, 0.46),
        (0.99, 0.56, 0.24),
        (1.0, 0.56, 0.24),
        (0.43, 0.32, 0.40),
        (0.99, 0.60, 0.38),
        (0.48, 0.28, 0.40),
        8.0,
        1.10,
        0.60,
    ),
    "night": Light(
        (0.02, 0.04, 0.12),
        (0.11, 0.16, 0.30),
        (0.62, 0.72, 0.98),
        (0.19, 0.24, 0.40),
        (0.20, 0.25, 0.38),
        (0.08, 0.11, 0.20),
        32.0,
        0.46,
        0.16,
    ),
    "dawn": Light(
        (0.50, 0.62, 0.84),
        (0.99, 0.80, 0.78),
        (1.0, 0.76, 0.70),
        (0.44, 0.43, 0.53),
        (1.0, 0.86, 0.86),
        (0.66, 0.62, 0.74),
        14.0,
        0.72,
        0.45,
    ),
}


@dataclass(frozen=True)
class Cover:
    """What the ground wears in one season. Snow line in world units above the eye."""

    grass: RGB
    meadow: RGB
    soil: RGB
    rock: RGB
    shore: RGB
    tree: RGB
    tree_other: RGB
    water: RGB
    snow_line: float
    snow: float


COVERS = {
    "summer": Cover(
        (0.22, 0.42, 0.12),
        (0.42, 0.54, 0.18),
        (0.42, 0.37, 0.22),
        (0.46, 0.44, 0.41),
        (0.72, 0.66, 0.48),
        (0.08, 0.26, 0.09),
        (0.20, 0.38, 0.10),
        (0.06, 0.20, 0.26),
        5.5,
        0.0,
    ),
    "autumn": Cover(
        (0.58, 0.42, 0.12),
        (0.68, 0.50, 0.18),
        (0.44, 0.30, 0.16),
        (0.45, 0.40, 0.36),
        (0.60, 0.50, 0.34),
        (0.72, 0.20, 0.06),
        (0.88, 0.56, 0.08),
        (0.08, 0.16, 0.20),
        5.0,
        0.0,
    ),
    "winter": Cover(
        (0.78, 0.82, 0.88),
        (0.86, 0.89, 0.93),
        (0.64, 0.68, 0.75),
        (0.40, 0.42, 0.47),
        (0.80, 0.84, 0.90),
        (0.14, 0.24, 0.22),
        (0.60, 0.68, 0.72),
        (0.46, 0.60, 0.70),
        -99.0,
        1.0,
    ),
    "desert": Cover(
        (0.86, 0.64, 0.36),
        (0.92, 0.74, 0.46),
        (0.74, 0.44, 0.24),
        (0.66, 0.36, 0.21),
        (0.94, 0.84, 0.62),
        (0.40, 0.40, 0.18),
        (0.56, 0.48, 0.24),
        (0.05, 0.34, 0.36),
        99.0,
        0.0,
    ),
}


@dataclass(frozen=True)
class Table:
    """Rows of one of the classes above as tensors: colours (K, 3), numbers (K,)."""

    columns: dict[str, Tensor]

    @classmethod
    def of(cls, rows: list[Light] | list[Cover], device: torch.device) -> Table:
        names = [f.name for f in fields(rows[0])]
        return cls({n: torch.tensor([getattr(r, n) for r in rows], device=device) for n in names})

    def pick(self, name: str, codes: Tensor) -> Tensor:
        """The column's value for every scene: (B, 3, 1, 1) for colours, (B, 1, 1) for numbers."""
        value = self.columns[name][codes]
        return value[:, :, None, None] if value.ndim == 2 else value[:, None, None]
