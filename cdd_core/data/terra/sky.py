"""Everything above the horizon: gradient, sun or moon, stars, clouds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cdd_core.data.terra.noise import draw_spectrum, mix, power_law, read_tile, smoothstep
from cdd_core.data.terra.palette import Table
from cdd_core.data.terra.scene import Scene

CLOUD_TILE, STAR_TILE = 9.0, 1.4


@dataclass(frozen=True)
class Sun:
    """Where the lamp of the sky stands: unit vector towards it (right, up, ahead), each (B, 1, 1)."""

    right: Tensor
    up: Tensor
    ahead: Tensor


def place_sun(scene: Scene, lights: Table, time: Tensor) -> Sun:
    """Elevation from the time of day, direction from the scene; half of the suns stand before the camera."""
    dial = scene.dials[:, 16, None, None]
    before = (dial * 4 - 1) * 0.5  # within half a radian of the axis
    around = 0.5 + (dial - 0.5) * 2 * (2 * math.pi - 1.0)
    azimuth = torch.where(dial < 0.5, before, around)
    elevation = torch.deg2rad(lights.pick("elevation", time)) * (0.75 + 0.5 * scene.dials[:, 17, None, None])
    flat = torch.cos(elevation)
    return Sun(torch.sin(azimuth) * flat, torch.sin(elevation), torch.cos(azimuth) * flat)


def sky_tiles(device: torch.device) -> Tensor:
    """Four periodic fields of billows and one of stars, (5, N, N); the same in every world."""
    generator = torch.Generator().manual_seed(20231003)
    size = 192
    clouds = power_law(torch.stack([draw_spectrum(size, generator) for _ in range(4)]), 1.45)
    stars = torch.zeros(1, 1, size, size)
    cells = torch.randint(0, size, (170, 2), generator=generator)
    stars[0, 0, cells[:, 0], cells[:, 1]] = torch.rand(170, generator=generator).square()
    stars = F.avg_pool2d(F.pad(stars, (1, 1, 1, 1), mode="circular"), 2, stride=1)[0, :, :size, :size] * 4
    return torch.cat([clouds, stars]).to(device)


def haze_colour(right: Tensor, up: Tensor, ahead: Tensor, sun: Sun, lights: Table, time: Tensor) -> Tensor:
    """Colour of the far air in a direction: the horizon's, warmer towards the sun; (B, 3, W, H)."""
    towards = right * sun.right + up * sun.up + ahead * sun.ahead
    halo = torch.exp((towards - 1) / 0.18) * lights.pick("glow", time)
    base = lights.pick("horizon", time)
    return base + (lights.pick("sun", time) - base * 0.5) * (halo * 0.6)[:, None]


def draw_sky(scene: Scene, sun: Sun, lights: Table, time: Tensor, u: Tensor, slopes: Tensor, tiles: Tensor) -> Tensor:
    """The sky behind every pixel, also where ground will cover it.

    Args:
        u: sideways slope of each column, shape (W,).
        slopes: slope of each row, shape (B, H).

    Returns:
        shape (B, 3, W, H).
    """
    length = (1 + u[None, :, None].square() + slopes[:, None].square()).rsqrt()
    right, up = u[None, :, None] * length, slopes[:, None] * length
    height = up.clamp_min(0)
    colour = haze_colour(right, height, length, sun, lights, time)
    rise = (1 - torch.exp(-height / 0.24))[:, None]
    colour = mix(colour, lights.pick("zenith", time), rise)

    towards = right * sun.right + height * sun.up + length * sun.ahead
    away = (2 - 2 * towards).clamp_min(0).sqrt()  # about the angle, radians
    glow = torch.exp(-away / 0.16) * lights.pick("glow", time)
    colour = colour + lights.pick("sun", time) * glow[:, None]

    night = lights.pick("strength", time) < 0.5
    stars = _stars(scene, u, slopes, tiles) * night * smoothstep(0.02, 0.25, height)
    colour = colour + 0.9 * stars[:, None]
    radius = 0.052
    disc = 1 - smoothstep(radius * 0.8, radius * 1.1, away)
    bright = (lights.pick("sun", time) * 1.25 + 0.25).clamp_max(1)
    colour = mix(colour, bright, disc[:, None])

    cover, shade = _clouds(scene, sun, u, slopes, tiles)
    body = mix(lights.pick("cloud_shade", time), lights.pick("cloud", time), shade[:, None])
    body = body + lights.pick("sun", time) * (0.35 * torch.exp(-away / 0.3))[:, None]
    return mix(colour, body, (cover * 0.92)[:, None])


def _stars(scene: Scene, u: Tensor, slopes: Tensor, tiles: Tensor) -> Tensor:
    batch = slopes.shape[0]
    x = u[None, :, None] + scene.dials[:, 18, None, None]
    y = slopes[:, None] + scene.dials[:, 19, None, None]
    return read_tile(tiles[4].expand(batch, 1, -1, -1), x, y, STAR_TILE)[:, 0]


def _clouds(scene: Scene, sun: Sun, u: Tensor, slopes: Tensor, tiles: Tensor) -> tuple[Tensor, Tensor]:
    """How much cloud covers each pixel, and how much light falls on it; both (B, W, H)."""
    away = 1 / (slopes[:, None].clamp_min(0) + 0.09)  # where the line of sight meets the layer of clouds
    x = u[None, :, None] * away + 30 * scene.dials[:, 20, None, None]
    z = away + 30 * scene.dials[:, 21, None, None]
    tile = tiles[(scene.dials[:, 22] * 4).long()][:, None]
    thick = read_tile(tile, x, z, CLOUD_TILE)[:, 0]
    towards = read_tile(tile, x + 0.25 * sun.right, z + 0.25 * sun.ahead, CLOUD_TILE)[:, 0]
    wanted = 1.9 - 2.4 * scene.dials[:, 23, None, None]
    cover = smoothstep(wanted, wanted + 1.3, thick) * smoothstep(0.0, 0.10, slopes[:, None])
    shade = (0.65 + 0.55 * (thick - towards) - 0.18 * (thick - wanted)).clamp(0, 1)
    return cover, shade
