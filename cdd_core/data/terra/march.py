"""From lattice to picture: which point of the ground each pixel sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cdd_core.data.terra.scene import TAN_HALF_FOV, Lattice


@dataclass(frozen=True)
class Hits:
    """What the rays of a picture meet; pixels are stored column by column, shape (B, W, H).

    Attributes:
        ground: the ray meets ground or water before the far plane.
        z: distance of the hit (the far plane where there is none), world units.
        index, weight: the hit lies between lattice samples index - 1 and index, weight of the latter.
    """

    ground: Tensor
    z: Tensor
    index: Tensor
    weight: Tensor

    def read(self, field: Tensor) -> Tensor:
        """A lattice field (B, W, D) at the hits, linear along the sight column."""
        before = field.gather(2, self.index - 1)
        return before + self.weight * (field.gather(2, self.index) - before)


def ray_slopes(horizon: Tensor, rows: int) -> Tensor:
    """Tangent of the elevation of every pixel row, shape (B, H), falling from the top of the picture."""
    centre = (torch.arange(rows, device=horizon.device) + 0.5) / rows
    return (horizon[:, None] - centre) * 2 * TAN_HALF_FOV


def march(surface: Tensor, camera: Tensor, slopes: Tensor, lattice: Lattice) -> Hits:
    """Meet every ray with the surface.

    A ray of slope e leaves the eye at height ``camera`` and stands at ``camera + e z`` over distance z. The first
    lattice sample at or above it ends the ray; between that sample and the one before, both are straight lines,
    so the crossing is exact and distance has no steps.

    Args:
        surface: heights, shape (B, W, D).
        camera: eye heights, shape (B,).
        slopes: shape (B, H).
    """
    batch, columns, samples = surface.shape
    rise = (surface - camera[:, None, None]) / lattice.z
    highest = rise.cummax(dim=2).values
    wanted = slopes[:, None].expand(-1, columns, -1).contiguous()
    index = torch.searchsorted(highest.contiguous(), wanted)
    ground = index < samples
    index = index.clamp(1, samples - 1)
    z_before, z_after = lattice.z[index - 1], lattice.z[index]
    below = (rise.gather(2, index - 1) - wanted) * z_before
    above = (rise.gather(2, index) - wanted) * z_after
    weight = (below / (below - above).clamp_max(-1e-9)).clamp(0, 1)
    weight = torch.where(ground, weight, torch.ones_like(weight))
    return Hits(ground, z_before + weight * (z_after - z_before), index, weight)
