"""The ground: height at every point of the view, for twelve kinds of landscape.

Every function takes the same :class:`Ground` and returns heights of shape (B, W, D) in world units (a grown
tree is about one unit tall). Nothing here draws random numbers: they come in as noise fields and dials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cdd_core.data.terra.noise import smoothstep

STAMPS = 12  # boulders or blocks that a scene may hold


@dataclass(frozen=True)
class Ground:
    """What a landform is made from.

    Attributes:
        x: sideways position of each point, shape (1, W, D), right is positive.
        z: distance ahead of the camera plane, shape (1, W, D).
        soft, rough, wild: noise fields at the points, from rolling to ragged, shape (B, W, D).
        dials: uniform draws in [0, 1], shape (B, 8, 1, 1).
        stamps: uniform draws in [0, 1] for single objects, shape (B, STAMPS, 5).
    """

    x: Tensor
    z: Tensor
    soft: Tensor
    rough: Tensor
    wild: Tensor
    dials: Tensor
    stamps: Tensor

    def take(self, index: Tensor) -> Ground:
        """The same ground for some of the scenes."""
        per_scene = (t[index] for t in (self.soft, self.rough, self.wild, self.dials, self.stamps))
        return Ground(self.x, self.z, *per_scene)

    def dial(self, index: int, lo: float, hi: float) -> Tensor:
        """One dial stretched to [lo, hi], shape (B, 1, 1)."""
        return lo + (hi - lo) * self.dials[:, index]


def hills(g: Ground) -> Tensor:
    return g.dial(0, 1.0, 2.8) * g.soft + g.dial(1, 0.1, 0.45) * g.rough


def mountains(g: Ground) -> Tensor:
    ridge = (1 - g.rough.abs()).clamp_min(-1.0)
    tall = g.dial(0, 3.0, 7.5) * (ridge + 0.7 * g.soft) + 0.5 * g.wild
    return 0.5 * g.soft + tall * smoothstep(3.0, g.dial(1, 14.0, 30.0), g.z)


def dunes(g: Ground) -> Tensor:
    angle = g.dial(0, -1.2, 1.2)
    across = g.x * torch.sin(angle) + g.z * torch.cos(angle) + g.dial(1, 1.0, 2.5) * g.soft
    phase = torch.remainder(across / g.dial(2, 4.0, 11.0) + g.dial(3, 0.0, 1.0), 1.0)
    # A long windward slope and a short lee slope, as real dunes have.
    crest = torch.where(phase < 0.72, smoothstep(0.0, 0.72, phase), 1 - smoothstep(0.72, 1.0, phase))
    return g.dial(4, 0.8, 2.4) * crest * (0.7 + 0.3 * g.soft.tanh()) + 0.6 * g.soft


def mesas(g: Ground) -> Tensor:
    sharp = g.dial(0, 6.0, 16.0)
    lower = torch.sigmoid(sharp * (g.soft + 0.15 * g.rough - g.dial(1, 0.1, 0.6)))
    upper = torch.sigmoid(sharp * (g.soft + 0.15 * g.rough - g.dial(2, 0.8, 1.4)))
    return g.dial(3, 1.5, 4.0) * lower + g.dial(4, 1.0, 4.0) * upper + 0.25 * g.rough


def terraces(g: Ground) -> Tensor:
    smooth = g.dial(0, 1.5, 3.0) * g.soft + g.dial(1, -0.03, 0.22) * g.z
    rise = g.dial(2, 0.5, 1.4)
    level = smooth / rise
    floor = level.floor()
    return rise * (floor + smoothstep(0.72, 1.0, level - floor)) + 0.05 * g.rough


def islands(g: Ground) -> Tensor:
    mound = smoothstep(0.35, 1.9, g.soft + 0.2 * g.rough)
    return g.dial(0, 2.5, 6.0) * mound - 0.7 + 0.12 * g.rough


def plains(g: Ground) -> Tensor:
    range_ = (1 - g.rough.abs()).clamp_min(-0.3) + 0.4 * g.soft
    backdrop = g.dial(0, 0.0, 8.0) * range_.clamp_min(0) * smoothstep(22.0, 45.0, g.z)
    return g.dial(1, 0.1, 0.5) * g.soft + 0.1 * g.rough + backdrop


def _place(g: Ground, index: int, near: float, far: float) -> tuple[Tensor, Tensor, Tensor]:
    """Centre of one stamp in the view, and its draws: x, z of shape (B, 1, 1) and (B, 5, 1, 1)."""
    draw = g.stamps[:, index, :, None, None]
    z = near * (far / near) ** draw[:, 0]
    return (2 * draw[:, 1] - 1) * 0.62 * z, z, draw


def boulders(g: Ground) -> Tensor:
    height = g.dial(0, 0.2, 0.9) * g.soft + 0.08 * g.rough
    for index in range(STAMPS):
        cx, cz, draw = _place(g, index, 3.5, 24.0)
        radius = (0.12 + 0.2 * draw[:, 2]) * cz.clamp_max(12.0)
        r2 = ((g.x - cx).square() + (g.z - cz).square()) / radius.square()
        dome = radius * (0.8 + 0.9 * draw[:, 3]) * (1 - r2).clamp_min(0).sqrt()
        present = (draw[:, 4] < 0.75).to(height.dtype)
        height = torch.maximum(height, height * 0.5 + present * (1 + 0.04 * g.rough) * dome)
    return height


def blocks(g: Ground) -> Tensor:
    height = g.dial(0, 0.1, 0.5) * g.soft + 0.05 * g.rough
    for index in range(STAMPS):
        cx, cz, draw = _place(g, index, 4.0, 26.0)
        angle = 1.57 * draw[:, 4]
        side = (0.08 + 0.17 * draw[:, 2]) * cz
        dx, dz = g.x - cx, g.z - cz
        along = (dx * torch.cos(angle) + dz * torch.sin(angle)).abs() / side
        across = (dz * torch.cos(angle) - dx * torch.sin(angle)).abs() / (side * (0.4 + draw[:, 3]))
        inside = (torch.maximum(along, across) < 1).to(height.dtype)
        height = torch.maximum(height, inside * cz * (0.12 + 0.55 * draw[:, 3].square()) * (1 + 0.02 * g.rough))
    return height


def canyon(g: Ground) -> Tensor:
    middle = g.dial(0, -0.9, 0.9) * smoothstep(4.0, 40.0, g.z) * 14 + 1.2 * g.soft
    width = g.dial(1, 1.8, 4.5) + g.dial(2, -0.04, 0.12) * g.z
    beyond = ((g.x - middle).abs() - width) / g.dial(3, 0.4, 2.5)
    wall = smoothstep(0.0, 1.0, beyond) + 0.3 * smoothstep(2.0, 3.5, beyond)
    end = smoothstep(0.0, 2.0, g.z - g.dial(5, 9.0, 70.0))  # some gorges are closed at the far end
    return g.dial(4, 3.0, 13.0) * torch.maximum(wall, end) * (1 + 0.08 * g.rough) + 0.18 * g.soft


def cliffs(g: Ground) -> Tensor:
    angle = g.dial(0, -1.5, 1.5)
    across = g.x * torch.cos(angle) + (g.z - g.dial(1, 8.0, 26.0)) * torch.sin(angle) + 2.0 * g.soft + 0.5 * g.rough
    wall = torch.sigmoid(g.dial(2, 1.5, 6.0) * across)
    return g.dial(3, 2.5, 13.0) * wall * (1 + 0.08 * g.rough) + 0.3 * g.soft


def peaks(g: Ground) -> Tensor:
    height = 0.5 * g.soft + 0.1 * g.rough
    for index in range(3):
        cx, cz, draw = _place(g, index, 14.0, 45.0)
        radius = (0.35 + 0.4 * draw[:, 2]) * cz
        r = ((g.x - cx).square() + (g.z - cz).square()).sqrt() / radius
        cone = (1 - r - 0.08 * g.rough).clamp_min(0) ** (0.9 + 0.8 * draw[:, 4])
        height = torch.maximum(height, height * 0.5 + cone * radius * (0.45 + 0.5 * draw[:, 3]))
    return height


LANDFORMS: dict[str, Callable[[Ground], Tensor]] = {
    "hills": hills,
    "mountains": mountains,
    "dunes": dunes,
    "mesas": mesas,
    "terraces": terraces,
    "islands": islands,
    "plains": plains,
    "boulders": boulders,
    "blocks": blocks,
    "canyon": canyon,
    "cliffs": cliffs,
    "peaks": peaks,
}


def heights(kinds: Tensor, ground: Ground) -> Tensor:
    """Ground height of every scene.

    Args:
        kinds: index into :data:`LANDFORMS` for each scene, shape (B,).

    Returns:
        shape (B, W, D), world units.
    """
    result = torch.empty_like(ground.soft)
    for kind, landform in enumerate(LANDFORMS.values()):
        index = (kinds == kind).nonzero(as_tuple=True)[0]
        if index.numel():
            result[index] = landform(ground.take(index))
    return result
