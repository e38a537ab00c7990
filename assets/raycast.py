"""A small ray caster: solids as signed distance fields, and their disparity as a camera sees it.

Axes: x to the right, y up, z ahead; metres. The camera stands over the origin and looks along z.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Field = Callable[[np.ndarray], np.ndarray]
"""Points (N, 3) -> distance to the nearest surface or less, negative inside, (N,)."""

EYE = 1.6
TAN_HALF_FOV = np.tan(np.radians(30))
FAR = 150.0
STEPS = 400
TOLERANCE = 1e-4  # gap at a hit, as a share of its distance
SUPERSAMPLING = 2


def box(centre: tuple[float, float, float], size: tuple[float, float, float], turn: float = 0.0) -> Field:
    """A box of these edge lengths, turned about the vertical by ``turn`` degrees."""
    middle, half = np.array(centre), np.array(size) / 2
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    to_box = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])

    def field(points: np.ndarray) -> np.ndarray:
        beyond = np.abs((points - middle) @ to_box) - half
        return np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(1), 0)

    return field


def block(x: float, z: float, width: float, height: float, length: float, turn: float = 0.0) -> Field:
    """A box that stands on the ground at (x, z)."""
    return box((x, height / 2, z), (width, height, length), turn)


def sphere(centre: tuple[float, float, float], radius: float) -> Field:
    middle = np.array(centre)
    return lambda points: np.linalg.norm(points - middle, axis=1) - radius


def column(x: float, z: float, radius: float, height: float, foot: float = 0.0) -> Field:
    """An upright round column that starts ``foot`` above the ground."""

    def field(points: np.ndarray) -> np.ndarray:
        out = np.hypot(points[:, 0] - x, points[:, 2] - z) - radius
        up = np.abs(points[:, 1] - foot - height / 2) - height / 2
        return np.hypot(np.maximum(out, 0), np.maximum(up, 0)) + np.minimum(np.maximum(out, up), 0)

    return field


def tunnel(x: float, radius: float, foot: float) -> Field:
    """A round tube along z, its axis at height ``foot``, with straight walls from there down."""

    def field(points: np.ndarray) -> np.ndarray:
        return np.hypot(points[:, 0] - x, np.maximum(points[:, 1] - foot, 0)) - radius

    return field


def pyramid(x: float, z: float, width: float, height: float, turn: float = 0.0) -> Field:
    """A square pyramid on the ground."""
    around = np.radians(turn + 90 * np.arange(4))
    rise, run = height, width / 2
    normals = np.stack([rise * np.cos(around), np.full(4, run), rise * np.sin(around)], 1) / np.hypot(rise, run)
    top = np.array([x, height, z])
    return lambda points: ((points - top) @ normals.T).max(1)


def relief(height: Callable[[np.ndarray, np.ndarray], np.ndarray], steepest: float) -> Field:
    """Ground of height(x, z), nowhere steeper than ``steepest``."""
    return lambda points: (points[:, 1] - height(points[:, 0], points[:, 2])) / np.hypot(1, steepest)


def union(*fields: Field) -> Field:
    return lambda points: np.minimum.reduce([field(points) for field in fields])


def without(solid: Field, hole: Field) -> Field:
    """The solid with the hole cut out."""
    return lambda points: np.maximum(solid(points), -hole(points))


def inside(solid: Field) -> Field:
    """Everything but the solid: its walls seen from within."""
    return lambda points: -solid(points)


def disparity(scene: Field, size: int, pitch: float = 0.0, ground: bool = True) -> np.ndarray:
    """What a camera with a field of view of 60 degrees sees from eye height.

    Args:
        scene: what stands there.
        size: pixels a side.
        pitch: degrees that the camera looks down.
        ground: the plane y = 0 is there as well; it is met exactly, up to the horizon.

    Returns:
        Inverse distance along the optical axis over that of the nearest point, 0 where nothing is hit; float64,
        shape (size, size).
    """
    rays = _rays(size * SUPERSAMPLING, pitch)
    reach = np.full(len(rays), FAR)
    inverse = np.zeros(len(rays))
    if ground:
        inverse = np.maximum(-rays[:, 1], 0) / EYE
        reach = np.minimum(reach, 1 / np.maximum(inverse, 1 / FAR))
    distance = _trace(scene, rays, reach)
    inverse = np.where(np.isfinite(distance), 1 / distance, inverse)
    pixels = inverse.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING).mean((1, 3))
    return pixels / pixels.max()


def _rays(pixels: int, pitch: float) -> np.ndarray:
    """Directions of unit length along the optical axis, row by row from the top left, (pixels², 3)."""
    offset = ((np.arange(pixels) + 0.5) / pixels * 2 - 1) * TAN_HALF_FOV
    x, up = np.meshgrid(offset, -offset)
    cos, sin = np.cos(np.radians(pitch)), np.sin(np.radians(pitch))
    return np.stack([x, up * cos - sin, up * sin + cos], -1).reshape(-1, 3)


def _trace(scene: Field, rays: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Distance along the optical axis where each ray (N, 3) meets the scene within its reach, else infinite."""
    eye = np.array([0.0, EYE, 0.0])
    length = np.linalg.norm(rays, axis=1)
    found = np.full(len(rays), np.inf)
    active, distance = np.arange(len(rays)), np.zeros(len(rays))
    for _ in range(STEPS):
        gap = scene(eye + distance[:, None] * rays[active]) / length[active]
        hit = gap < TOLERANCE * distance
        found[active[hit]] = distance[hit]
        distance = distance + gap
        on = ~hit & (distance < reach[active])
        active, distance = active[on], distance[on]
        if not active.size:
            return found
    found[active] = distance  # still creeping along a surface: as good as on it
    return found
