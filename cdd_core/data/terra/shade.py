"""Ground, trees and water under the light of the sky."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cdd_core.data.terra.march import Hits
from cdd_core.data.terra.noise import mix, read_tile, smoothstep
from cdd_core.data.terra.palette import Table
from cdd_core.data.terra.scene import FAR, NEAR, TAN_HALF_FOV, Lattice, Scene
from cdd_core.data.terra.sky import Sun

SHADOW_REACH = (0.35, 0.7, 1.2, 2.0, 3.2, 5.0, 8.0, 12.0)  # world units along the ground


@dataclass(frozen=True)
class Surface:
    """The lattice surface of a scene with or without its lake, and its slopes; all (B, W, D)."""

    height: Tensor
    slope_x: Tensor
    slope_z: Tensor
    shadow: Tensor


def lay_surface(scene: Scene, lattice: Lattice, lake: Tensor, sun: Sun) -> Surface:
    """Fill the lake if there is one, take the gradient, throw the shadows."""
    ground = scene.height
    water = torch.where(lake[:, None, None], scene.water_level[:, None, None], ground.new_tensor(-1e4))
    height = torch.maximum(ground, water)
    # Lattice steps are even in u and in log z: dh/dx = h_u / z and dh/dz = (h_logz - u h_u) / z.
    step_u = lattice.u[1] - lattice.u[0]
    step_l = torch.log(lattice.z[1] / lattice.z[0])
    by_u = F.pad(height[:, 2:] - height[:, :-2], (0, 0, 1, 1)) / (2 * step_u)
    by_l = F.pad(height[:, :, 2:] - height[:, :, :-2], (1, 1)) / (2 * step_l)
    slope_x = by_u / lattice.z
    slope_z = (by_l - lattice.u[:, None] * by_u) / lattice.z
    return Surface(height, slope_x, slope_z, _shadows(height, lattice, sun))


def _shadows(height: Tensor, lattice: Lattice, sun: Sun) -> Tensor:
    """How much of the sun each lattice point sees, 0 to 1, on every second point and then spread."""
    coarse = height[:, ::2, ::2]
    x, z = lattice.x_grid[:, ::2, ::2], lattice.z_grid[:, ::2, ::2]
    flat = (sun.right.square() + sun.ahead.square()).sqrt().clamp_min(1e-3)
    climb = sun.up / flat
    log_span = torch.log(torch.tensor(FAR / NEAR))
    hidden = torch.zeros_like(coarse)
    for reach in SHADOW_REACH:
        px, pz = x + reach * sun.right / flat, (z + reach * sun.ahead / flat).clamp_min(NEAR)
        grid = torch.stack([torch.log(pz / NEAR) / log_span * 2 - 1, px / (pz * TAN_HALF_FOV)], -1)
        other = F.grid_sample(coarse[:, None], grid, padding_mode="border", align_corners=True)[:, 0]
        hidden = torch.maximum(hidden, (other - coarse - reach * climb) / (0.12 * reach + 0.15))
    seen = 1 - smoothstep(0.0, 1.0, hidden)
    return F.interpolate(seen[:, None], size=height.shape[1:], mode="bilinear", align_corners=False)[:, 0]


def draw_ground(
    scene: Scene,
    surface: Surface,
    hits: Hits,
    sun: Sun,
    lights: Table,
    covers: Table,
    codes: Tensor,
    lattice: Lattice,
    textures: Tensor,
) -> tuple[Tensor, Tensor]:
    """Colour of the ground before haze, (B, 3, W, H), and where the hit is water, (B, W, H)."""
    time, season, lake = codes[:, 0], codes[:, 1], codes[:, 3].bool()
    height = hits.read(surface.height)
    slope_x, slope_z = hits.read(surface.slope_x), hits.read(surface.slope_z)
    canopy, tint = hits.read(scene.canopy), hits.read(scene.tint)
    cavity, shadow = hits.read(scene.cavity), hits.read(surface.shadow)
    tree_id = scene.tree_id.gather(2, hits.index)
    normal_up = (1 + slope_x.square() + slope_z.square()).rsqrt()
    facing = (sun.up - slope_x * sun.right - slope_z * sun.ahead) * normal_up

    level = scene.water_level[:, None, None]
    water = (height < level + 2e-3) & lake[:, None, None]
    albedo = _albedo(scene, covers, season, height, normal_up, tint, lake)
    spread = smoothstep(0.25, 0.75, tree_id)[:, None]
    crown = mix(covers.pick("tree", season), covers.pick("tree_other", season), spread)
    frost = (covers.pick("snow", season) * 0.75 * smoothstep(0.35, 0.8, normal_up))[:, None]
    crown = mix(crown, 0.84, frost)
    albedo = mix(albedo, crown, canopy[:, None])
    grain = _grain(scene, hits, lattice, textures) * (1 - 0.6 * covers.pick("snow", season) * (1 - canopy))
    albedo = albedo * (1 + 0.10 * grain)[:, None]

    direct = (facing.clamp_min(0) * shadow * lights.pick("strength", time))[:, None]
    openness = (0.62 + 0.38 * normal_up) * (1 + 0.28 * cavity)
    light = lights.pick("ambient", time) * openness[:, None] + lights.pick("sun", time) * direct
    return albedo * light * 1.12, water


def _grain(scene: Scene, hits: Hits, lattice: Lattice, textures: Tensor) -> Tensor:
    """Grass blades, pebbles, bark: noise fixed to the ground, coarser and fainter with distance; (B, W, H)."""
    x, z = lattice.u[:, None] * hits.z, hits.z
    batch, shift = hits.z.shape[0], 20 * scene.dials[:, 24, None, None]
    coarse = read_tile(textures[:1].expand(batch, 1, -1, -1), x + shift, z, 13.0)[:, 0]
    fine = read_tile(textures[1:].expand(batch, 1, -1, -1), x + shift, z, 3.1)[:, 0]
    return coarse * (1 - 0.8 * smoothstep(12.0, 45.0, z)) + fine * (1 - smoothstep(3.0, 13.0, z))


def _albedo(
    scene: Scene, covers: Table, season: Tensor, height: Tensor, normal_up: Tensor, tint: Tensor, lake: Tensor
) -> Tensor:
    """Bare ground: grass to meadow by the colour noise, soil and rock by slope, snow by height, a shore."""
    grass, meadow = covers.pick("grass", season), covers.pick("meadow", season)
    colour = mix(grass, meadow, smoothstep(-1.2, 1.2, tint)[:, None])
    soil = smoothstep(0.93, 0.80, normal_up + 0.05 * tint)
    colour = mix(colour, covers.pick("soil", season), soil[:, None])
    rock = smoothstep(0.86, 0.66, normal_up + 0.04 * tint)
    bed = height * (1.5 + 3.5 * scene.dials[:, 25, None, None]) + 1.2 * tint
    strata = torch.sin(bed) + 0.6 * torch.sin(2.7 * bed + 1.3)
    stone = covers.pick("rock", season) * (1 + 0.09 * strata)[:, None]
    colour = mix(colour, stone, rock[:, None])
    above = height - scene.camera[:, None, None]
    line = covers.pick("snow_line", season)
    snow = smoothstep(-0.6, 0.6, above - line + 0.7 * tint) * smoothstep(0.50, 0.72, normal_up)
    colour = mix(colour, 0.85, snow[:, None])
    over = height - scene.water_level[:, None, None]
    shore = smoothstep(0.28, 0.10, over + 0.05 * tint) * lake[:, None, None]
    return mix(colour, covers.pick("shore", season), shore[:, None])


def reflect(picture: Tensor, water: Tensor, tremble: Tensor) -> Tensor:
    """What still water mirrors: the picture above its far shore, turned over at the shore line.

    Exact for a bank that rises at the shore; farther things are mirrored a little too high, as nobody notices.

    Args:
        picture: what stands behind the water, shape (B, 3, W, H), row 0 on top.
        water: which pixels are water, shape (B, W, H).
        tremble: rows by which wind moves the image, shape (B, W, H).

    Returns:
        shape (B, 3, W, H), meaningful where ``water`` is true.
    """
    rows = torch.arange(picture.shape[3], device=picture.device)
    shore = torch.where(water, rows.new_tensor(-1), rows).cummax(2).values
    source = (2 * shore - rows + tremble.long()).clamp(0, picture.shape[3] - 1)
    return picture.gather(3, source[:, None].expand(-1, 3, -1, -1))


def draw_water(mirror: Tensor, slopes: Tensor, lights: Table, covers: Table, codes: Tensor, tint: Tensor) -> Tensor:
    """Lake surface from its reflection, (B, 3, W, H); winter lakes are frozen and mirror less."""
    time, season = codes[:, 0], codes[:, 1]
    grazing = (1 - (-slopes[:, None]).clamp(0, 1)).pow(3)
    ice = covers.pick("snow", season)
    share = (0.30 + 0.55 * grazing) * (1 - 0.55 * ice)
    lit = (
        lights.pick("ambient", time) * 1.2 + lights.pick("sun", time) * (0.25 * lights.pick("strength", time))[:, None]
    )
    body = covers.pick("water", season) * lit * (1 + 0.10 * ice * tint)[:, None]
    return mix(body, mirror, share[:, None])
