"""Terra, the procedural world: scenes from (seed, index), pictures and exact depth from scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cdd_core.data.terra import palette, scene, shade, sky
from cdd_core.data.terra.attributes import ATTRIBUTES, Attributes, encode
from cdd_core.data.terra.landforms import LANDFORMS
from cdd_core.data.terra.march import Hits, march, ray_slopes
from cdd_core.data.terra.noise import mix, smoothstep, texture_tiles

SUPERSAMPLING = 1.5
CHUNK = 8  # scenes drawn at once on a CPU: more only makes the memory allocator work
GPU_CHUNK = 32  # on a GPU, where fewer leave it waiting for its kernels
HAZE = (0.020, 0.115)  # per multiple of the nearest distance: clear, fog


@dataclass(frozen=True)
class Rendering:
    """A batch of pictures.

    Attributes:
        image: RGB in [0, 1], shape (B, 3, S, S).
        disparity: nearest visible distance over distance, 1 is nearest and the sky is 0, shape (B, 1, S, S).
    """

    image: Tensor
    disparity: Tensor


class Terra:
    """The world. Same (seed, index), same scene, in any batch.

    Args:
        seed: which world.
        size: pixels a side.
        device: where to render.
    """

    def __init__(self, seed: int, size: int = 128, device: str | torch.device = "cpu") -> None:
        self.seed, self.size = seed, size
        self.device = torch.device(device)
        self.pixels = round(size * SUPERSAMPLING)
        self.lattice = scene.Lattice.build(self.pixels, self.device)
        self.trees = scene.forest_tiles(self.device)
        self.tiles = sky.sky_tiles(self.device)
        self.textures = texture_tiles(self.device)
        self.lights = palette.Table.of(list(palette.LIGHTS.values()), self.device)
        self.covers = palette.Table.of(list(palette.COVERS.values()), self.device)

    def attributes(self, indices: list[int]) -> Tensor:
        """The attributes that belong to these indices, uniform and independent; codes of shape (B, 4)."""
        return self._choices(indices)[:, 1:]

    def landforms(self, indices: list[int]) -> Tensor:
        """Which of ``LANDFORMS`` stands at these indices; shape (B,)."""
        return self._choices(indices)[:, 0]

    def _choices(self, indices: list[int]) -> Tensor:
        counts = [len(LANDFORMS), *(len(values) for values in ATTRIBUTES.values())]
        draws = [np.random.default_rng((self.seed, index)).integers(counts) for index in indices]
        return torch.from_numpy(np.stack(draws))

    @torch.no_grad()
    def scenes(self, indices: list[int]) -> scene.Scene:
        """The scenes of these indices; a blocked view is drawn again with its next attempt."""
        attempts = [0] * len(indices)
        scenes = self._build(indices, attempts)
        waiting = list(range(len(indices)))
        while waiting:
            rows = torch.tensor(waiting, device=self.device)
            bad = self._blocked(scenes.take(rows)).tolist()
            waiting = [row for row, blocked in zip(waiting, bad, strict=True) if blocked]
            if not waiting:
                break
            for row in waiting:
                attempts[row] += 1
            again = self._build([indices[r] for r in waiting], [attempts[r] for r in waiting])
            scenes = scenes.with_rows(torch.tensor(waiting, device=self.device), again)
        return scenes

    @torch.no_grad()
    def render(self, scenes: scene.Scene, attributes: list[Attributes] | Tensor) -> Rendering:
        """Draw the scenes under these attributes (a list of B, or their codes, shape (B, 4))."""
        codes = attributes if isinstance(attributes, Tensor) else encode(attributes)
        together = CHUNK if self.device.type == "cpu" else GPU_CHUNK
        parts = [
            self._render(scenes.take(rows), codes.to(self.device)[rows])
            for rows in torch.arange(len(codes), device=self.device).split(together)
        ]
        return Rendering(torch.cat([p.image for p in parts]), torch.cat([p.disparity for p in parts]))

    def _render(self, scenes: scene.Scene, codes: Tensor) -> Rendering:
        time, lake = codes[:, 0], codes[:, 3].bool()
        sun = sky.place_sun(scenes, self.lights, time)
        surface = shade.lay_surface(scenes, self.lattice, lake, sun)
        slopes = ray_slopes(scenes.horizon, self.pixels)
        hits = march(surface.height, scenes.camera, slopes, self.lattice)
        nearest = torch.where(hits.ground, hits.z, hits.z.new_tensor(scene.FAR)).amin((1, 2))[:, None, None]

        air = sky.draw_sky(scenes, sun, self.lights, time, self.lattice.u, slopes, self.tiles)
        picture = self._ground(scenes, surface, hits, sun, codes, slopes, nearest, air)
        return Rendering(_expose(self._shrink(picture)), self._shrink(self._disparity(hits, nearest)[:, None]))

    def _ground(
        self,
        scenes: scene.Scene,
        surface: shade.Surface,
        hits: Hits,
        sun: sky.Sun,
        codes: Tensor,
        slopes: Tensor,
        nearest: Tensor,
        air: Tensor,
    ) -> Tensor:
        """Ground and lake behind the right amount of air, over the sky; (B, 3, P, P)."""
        ground, water = shade.draw_ground(
            scenes, surface, hits, sun, self.lights, self.covers, codes, self.lattice, self.textures
        )
        fog = codes[:, 2, None, None].to(air.dtype)
        density = HAZE[0] + (HAZE[1] - HAZE[0]) * fog
        clear = torch.exp(-density * (hits.z / nearest - 1))[:, None]
        u = self.lattice.u[None, :, None]
        length = (1 + u.square() + slopes[:, None].square()).rsqrt()
        haze = sky.haze_colour(u * length, slopes[:, None].clamp_min(0) * length, length, sun, self.lights, codes[:, 0])
        grey = haze.mean(1, keepdim=True)
        haze = mix(haze, grey, (0.35 * fog)[:, None])
        air = mix(air, haze, (fog * (1 - 0.45 * slopes[:, None].clamp(0, 1)))[:, None])
        visible = torch.where(hits.ground[:, None], mix(haze, ground, clear), air)
        if bool(codes[:, 3].any()):
            water = water & hits.ground
            tint = hits.read(scenes.tint)
            tremble = (0.008 * self.pixels) * torch.sin(9 * hits.z + 3 * tint) * smoothstep(24.0, 4.0, hits.z)
            mirror = shade.reflect(torch.where(water[:, None], haze, visible), water, tremble)
            lake = shade.draw_water(mirror, slopes, self.lights, self.covers, codes, tint)
            visible = torch.where(water[:, None], mix(haze, lake, clear), visible)
        return visible

    def _disparity(self, hits: Hits, nearest: Tensor) -> Tensor:
        """Inverse distance, 1 at the nearest point and 0 at the far plane and in the sky; (B, P, P)."""
        inverse = (nearest / hits.z - nearest / scene.FAR) / (1 - nearest / scene.FAR)
        return torch.where(hits.ground, inverse, torch.zeros_like(inverse)).clamp(0, 1)

    def _shrink(self, columns: Tensor) -> Tensor:
        """Average the supersampled columns (B, C, W, H) into rows of pixels (B, C, S, S)."""
        rows = columns.transpose(2, 3)
        return F.interpolate(rows, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False)

    def _build(self, indices: list[int], attempts: list[int]) -> scene.Scene:
        draws = scene.Draws.of(self.seed, indices, attempts).to(self.device)
        kinds = self.landforms(indices).to(self.device)
        return scene.build(draws, kinds, self.lattice, self.trees, self.textures)

    def _blocked(self, scenes: scene.Scene) -> Tensor:
        """Views nobody would take: a wall before the lens, a blank plain, no room for the lake; shape (B,)."""
        slopes = ray_slopes(scenes.horizon, 32)
        level = scenes.water_level[:, None, None]
        flooded = torch.maximum(scenes.height, level)[:, ::4]
        hits = march(flooded, scenes.camera, slopes, self.lattice)
        water = (hits.read(flooded) < level + 2e-3) & hits.ground
        dry = march(scenes.height[:, ::4], scenes.camera, slopes, self.lattice)
        close = (dry.ground & (dry.z < 1.6)).float().mean((1, 2))
        share = water.float().mean((1, 2))
        sky_share = 1 - dry.ground.float().mean((1, 2))
        spread = torch.where(dry.ground, dry.z.log(), dry.z.new_tensor(scene.FAR).log()).flatten(1).std(1)
        return (close > 0.02) | (share < 0.05) | (share > 0.6) | (sky_share > 0.75) | (spread < 0.35)


def _expose(light: Tensor) -> Tensor:
    """Display values from light: linear up to 0.7, then a soft shoulder to 1."""
    knee = 0.7
    return torch.where(light > knee, knee + (1 - knee) * ((light - knee) / (1 - knee)).tanh(), light).clamp(0, 1)
