"""A Terra scene: everything about a view that does not change with its attributes.

The ground is held on a lattice that fits the camera, not the world: W sight columns by D distances in geometric
progression, so near pebbles and far mountains get the same number of samples on the screen.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cdd_core.data.terra import landforms
from cdd_core.data.terra.noise import draw_spectrum, power_law, read_tile, smoothstep

TAN_HALF_FOV = 0.6  # 62 degrees across
NEAR, FAR = 0.7, 64.0
DISTANCES = 208
SPECTRUM = 192  # cells a side of one noise field
WORLD = 90.0  # world units that one noise field covers
FOREST_TILE = 14.0
TREES_IN_TILE = 150


@dataclass(frozen=True)
class Lattice:
    """Sample points shared by every scene: sideways slope u (W,), distance z (D,), both also as (1, W, D)."""

    u: Tensor
    z: Tensor
    x_grid: Tensor
    z_grid: Tensor

    @classmethod
    def build(cls, columns: int, device: torch.device) -> Lattice:
        u = ((torch.arange(columns, device=device) + 0.5) / columns * 2 - 1) * TAN_HALF_FOV
        z = NEAR * (FAR / NEAR) ** torch.linspace(0, 1, DISTANCES, device=device)
        return cls(u, z, (u[:, None] * z)[None], z.expand(columns, -1)[None])


@dataclass(frozen=True)
class Draws:
    """All the randomness of a batch of scenes; row i depends on (seed, index i, attempt i) alone."""

    spectra: Tensor  # (B, 4, N, N // 2 + 1) complex: three kinds of ground, one of colour
    dials: Tensor  # (B, 32) uniform: 0-7 landform, 9- camera, light, forest, clouds, tints
    stamps: Tensor  # (B, STAMPS, 5) uniform

    @classmethod
    def of(cls, seed: int, indices: list[int], attempts: list[int]) -> Draws:
        rows: list[tuple[Tensor, Tensor, Tensor]] = []
        for index, attempt in zip(indices, attempts, strict=True):
            state = np.random.SeedSequence((seed, index, attempt)).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
            spectra = torch.stack([draw_spectrum(SPECTRUM, generator) for _ in range(4)])
            rows.append(
                (
                    spectra,
                    torch.rand(32, generator=generator),
                    torch.rand(landforms.STAMPS, 5, generator=generator),
                )
            )
        return cls(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def to(self, device: torch.device) -> Draws:
        return Draws(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True)
class Scene:
    """A batch of views. Lattice tensors have shape (B, W, D), the rest (B,) or (B, K).

    Attributes:
        height: top of ground and trees, world units.
        canopy: how much of the point is tree, 0 to 1.
        tree_id: a value in [0, 1] that is constant over one tree.
        tint: smooth colour noise, about unit variance.
        cavity: positive on bumps, negative in hollows, about [-1, 1].
        camera: eye height, world units.
        horizon: height of the horizon in the picture, 0 is the top.
        water_level: where the lake stands if the scene is given one.
        kind: index into ``LANDFORMS``.
        dials: the uniform draws, for light, clouds and tints.
    """

    height: Tensor
    canopy: Tensor
    tree_id: Tensor
    tint: Tensor
    cavity: Tensor
    camera: Tensor
    horizon: Tensor
    water_level: Tensor
    kind: Tensor
    dials: Tensor

    def take(self, index: Tensor) -> Scene:
        """Some of the scenes, in the order asked; an index may repeat."""
        return Scene(*(getattr(self, f.name)[index] for f in fields(self)))

    def with_rows(self, index: Tensor, other: Scene) -> Scene:
        """These scenes with the rows at ``index`` replaced by ``other``."""
        return Scene(*(getattr(self, f.name).index_copy(0, index, getattr(other, f.name)) for f in fields(self)))


def forest_tiles(device: torch.device) -> Tensor:
    """Two periodic tiles of trees, pointed firs and round crowns: (2, 2, N, N), height and identity.

    They are the same for every world: a scene chooses one, and where its forest grows.
    """
    size = 256
    generator = torch.Generator().manual_seed(20231002)
    cell = FOREST_TILE / size
    axis = torch.arange(size) * cell
    tiles = torch.zeros(2, 2, size, size)
    for shape in range(2):
        for _ in range(TREES_IN_TILE):
            cx, cz, grown, identity = torch.rand(4, generator=generator).tolist()
            radius = 0.28 + 0.22 * grown
            dx = (axis - cx * FOREST_TILE + FOREST_TILE / 2) % FOREST_TILE - FOREST_TILE / 2
            dz = (axis - cz * FOREST_TILE + FOREST_TILE / 2) % FOREST_TILE - FOREST_TILE / 2
            r = (dx[None].square() + dz[:, None].square()).sqrt() / radius
            crown = (1 - r).clamp_min(0) if shape == 0 else (1 - r.square()).clamp_min(0).sqrt()
            top = crown * ((0.9 + 0.7 * grown) if shape == 0 else (0.5 + 0.4 * grown))
            higher = top > tiles[shape, 0]
            tiles[shape, 0] = torch.where(higher, top, tiles[shape, 0])
            tiles[shape, 1] = torch.where(higher, torch.tensor(identity), tiles[shape, 1])
    return tiles.to(device)


def build(draws: Draws, kind: Tensor, lattice: Lattice, trees: Tensor, textures: Tensor) -> Scene:
    """Grow the scenes of one batch of draws on the lattice; no randomness of its own."""
    dials = draws.dials
    betas = (2.15, 1.65, 1.25, 1.3)
    tile = torch.stack([power_law(draws.spectra[:, k], beta) for k, beta in enumerate(betas)], 1)
    soft, rough, wild, tint = read_tile(tile, lattice.x_grid + WORLD / 2, lattice.z_grid + 4.0, WORLD).unbind(1)
    ground = landforms.Ground(lattice.x_grid, lattice.z_grid, soft, rough, wild, dials[:, :8, None, None], draws.stamps)
    height = landforms.heights(kind, ground)

    # Nothing rises in the photographer's face: close ground is drawn towards its own level.
    middle = height.shape[1] // 2
    level = height[:, middle - 4 : middle + 4, :24].mean((1, 2))[:, None, None]
    openness = smoothstep(1.0, 5.0, lattice.z_grid)
    height = level + (height - level) * openness

    # Bumps too small for the noise fields, where they can be seen.
    x = lattice.x_grid + 20 * dials[:, 24, None, None]
    bumps = read_tile(textures[:1].expand(len(dials), 1, -1, -1), x, lattice.z_grid, 9.0)[:, 0]
    height = height + 0.03 * dials[:, 26, None, None] * bumps * openness * (1 - smoothstep(10.0, 22.0, lattice.z_grid))

    camera = level[:, 0, 0] + 0.9 + 2.2 * dials[:, 9]
    horizon = 0.30 + 0.24 * dials[:, 10]
    water_level = _water_level(height, dials[:, 11])
    camera = torch.maximum(camera, water_level + 0.8 + 0.8 * dials[:, 9])

    canopy, tree_id, crowns = _forest(height, tint, dials, lattice, trees, water_level)
    height = height + crowns * openness
    around = height[:, None]
    for window in ((9, 1), (1, 9)):
        padding = (window[0] // 2, window[1] // 2)
        around = F.avg_pool2d(around, window, stride=1, padding=padding, count_include_pad=False)
    around = around[:, 0]
    cavity = ((height - around) / (0.035 * lattice.z_grid)).tanh()
    return Scene(height, canopy, tree_id, tint, cavity, camera, horizon, water_level, kind, dials)


def _water_level(height: Tensor, dial: Tensor) -> Tensor:
    """A level that floods a share of the ground between a few and forty units ahead."""
    near, far = int(0.35 * DISTANCES), int(0.88 * DISTANCES)
    seen = height[:, ::4, near:far:2].flatten(1)
    rank = (0.22 + 0.30 * dial) * (seen.shape[1] - 1)
    ordered = seen.sort(1).values
    return ordered.gather(1, rank.long()[:, None])[:, 0] + 0.03


def _forest(
    height: Tensor, tint: Tensor, dials: Tensor, lattice: Lattice, trees: Tensor, water_level: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where trees grow, which tree it is, and how high it stands above the ground."""
    shape = (dials[:, 12] < 0.5).long()
    tile = trees[shape]
    # A shift for every scene, so that no two share a tree.
    x = lattice.x_grid + 40 * dials[:, 13, None, None]
    z = lattice.z_grid + 40 * dials[:, 14, None, None]
    crown, tree_id = read_tile(tile, x, z, FOREST_TILE).unbind(1)
    wanted = 2.2 - 3.4 * dials[:, 15, None, None]  # from none to nearly everywhere
    slope = (height.diff(dim=2, append=height[:, :, -1:]) / (0.022 * lattice.z_grid)).abs()
    grows = smoothstep(0.0, 0.5, tint - wanted) * (1 - smoothstep(0.7, 1.3, slope))
    grows = grows * smoothstep(0.1, 0.3, height - water_level[:, None, None])
    # Far crowns are smaller than the lattice: they become an even cover instead of noise.
    near = 1 - smoothstep(14.0, 26.0, lattice.z_grid)
    stands = grows * (near * crown + (1 - near) * 0.45)
    present = grows * (near * (crown > 0.05).to(crown.dtype) + (1 - near) * 0.85)
    return present, tree_id * near + 0.5 * (1 - near), stands
