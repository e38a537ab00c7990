"""Depth maps that are not from Terra: what people might upload. Each is (S, S), 1 is nearest and 0 the sky."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import median_filter
from skimage.data import stereo_motorcycle

from assets.raycast import (
    Field,
    block,
    box,
    column,
    disparity,
    inside,
    pyramid,
    relief,
    sphere,
    tunnel,
    union,
    without,
)
from cdd_core.images import open_image, to_disparity


def motorcycle(size: int) -> np.ndarray:
    """The middle of the measured disparity of a motorcycle in a workshop, holes filled."""
    measured = stereo_motorcycle()[2]
    # One camera couldn't see what lies in a hole, so it belongs to the farther of its two neighbours on the scanline.
    beside = np.minimum(_last_seen(measured), _last_seen(measured[:, ::-1])[:, ::-1])
    filled = np.where(np.isfinite(measured), measured, median_filter(beside, 7))
    return to_disparity(open_image(filled), size)[0, 0].numpy()


def _last_seen(rows: np.ndarray) -> np.ndarray:
    """Each pixel's nearest finite value to the left, infinite where there is none."""
    seen = np.where(np.isfinite(rows), np.arange(rows.shape[1]), 0)
    latest = np.maximum.accumulate(seen, axis=1)
    values = np.take_along_axis(rows, latest, axis=1)
    return np.where(np.isfinite(values), values, np.inf)


def boxes_near(size: int) -> np.ndarray:
    """Three crates close by."""
    crates = union(
        block(-1.1, 5.2, 1.4, 1.4, 1.4, 25), block(1.5, 6.5, 1.8, 2.6, 1.8, -20), block(0.2, 4.0, 0.6, 0.6, 0.6, 50)
    )
    return disparity(crates, size, pitch=6)


def boxes_scattered(size: int) -> np.ndarray:
    """Blocks of many sizes out to the horizon."""
    rng = np.random.default_rng(5)
    blocks: list[Field] = []
    for k, z in enumerate(np.geomspace(4.5, 70, 14)):
        width = rng.uniform(0.5, 1.1) * (z / 5) ** 0.8
        x = (0.1 + 0.36 * rng.random()) * z * (-1) ** k
        blocks.append(block(x, z, width, width * rng.uniform(0.5, 2.4), width, rng.uniform(0, 90)))
    return disparity(union(*blocks), size, pitch=4)


def spheres_lying(size: int) -> np.ndarray:
    """Balls of three sizes on a plain."""
    balls = union(
        sphere((-0.9, 0.9, 5.0), 0.9),
        sphere((1.2, 0.5, 4.2), 0.5),
        sphere((2.2, 1.8, 9.5), 1.8),
        sphere((-4.2, 2.4, 14), 2.4),
    )
    return disparity(balls, size, pitch=6)


def spheres_floating(size: int) -> np.ndarray:
    """A row of balls in the air, going away."""
    balls = [sphere((-1.6 + 1.25 * k, 1.7 + 0.35 * (-1) ** k, 4.0 + 2.2 * k), 0.75) for k in range(6)]
    return disparity(union(*balls), size, pitch=2)


def stairs(size: int) -> np.ndarray:
    """Broad steps that climb away from the viewer to a platform."""
    steps = [block(0.4, 4.0 + 0.5 * k + 4.0, 4.4, 0.26 * (k + 1), 8.0) for k in range(9)]
    return disparity(union(*steps), size, pitch=2)


def room(size: int) -> np.ndarray:
    """A room with a cupboard, a bed and a doorway."""
    walls = inside(union(box((0.3, 1.4, 2.5), (4.6, 2.8, 7.0)), box((1.2, 1.0, 8.0), (1.0, 2.0, 6.0))))
    things = union(
        block(-1.6, 4.6, 0.8, 2.0, 1.6), block(1.7, 3.9, 1.6, 0.5, 2.2), box((1.7, 0.6, 4.8), (1.5, 0.25, 0.4))
    )
    return disparity(union(walls, things), size, pitch=4, ground=False)


def corridor(size: int) -> np.ndarray:
    """A long passage with doorways on both sides."""
    hall = box((0, 1.35, 20), (2.4, 2.7, 44))
    doors = [
        box((side * 1.2, 1.05, 5.0 + 3.2 * k + 0.8 * (side > 0)), (1.0, 2.1, 1.1)) for k in range(6) for side in (-1, 1)
    ]
    return disparity(inside(union(hall, *doors)), size, ground=False)


def table(size: int) -> np.ndarray:
    """A table with a pot, a box and a ball on it."""
    legs = [block(x, z, 0.09, 0.74, 0.09) for x in (-0.85, 0.85) for z in (1.75, 2.75)]
    pot = column(-0.45, 2.4, 0.18, 0.36, foot=0.78)
    things = union(pot, box((0.15, 0.93, 2.55), (0.4, 0.3, 0.3), 30), sphere((0.55, 0.92, 2.1), 0.14))
    return disparity(union(box((0, 0.76, 2.25), (1.9, 0.05, 1.2)), *legs, things), size, pitch=16)


def pyramids(size: int) -> np.ndarray:
    """A great pyramid and a small one."""
    return disparity(union(pyramid(-3.0, 24.0, 17.0, 11.0, 35), pyramid(5.5, 14.0, 4.0, 2.8, 20)), size, pitch=-2)


def colonnade(size: int) -> np.ndarray:
    """Two rows of columns under beams."""
    columns = [column(side * 2.2, 5.0 + 3.0 * k, 0.38, 4.2) for k in range(8) for side in (-1, 1)]
    beams = [box((side * 2.2, 4.5, 15.5), (0.9, 0.6, 22.6)) for side in (-1, 1)]
    return disparity(union(*columns, *beams), size, pitch=-6)


def arch(size: int) -> np.ndarray:
    """A gate in a wall, with land behind it."""
    wall = without(block(0.3, 8.0, 6.4, 5.0, 1.2), tunnel(0.3, 1.5, 2.2))
    return disparity(union(wall, sphere((3.5, -3.0, 30), 7.5), sphere((-9, -6, 45), 12)), size, pitch=-4)


def city(size: int) -> np.ndarray:
    """A street between blocks of houses."""
    rng = np.random.default_rng(11)
    houses = [
        block(side * 8.5 + rng.uniform(-1, 1), 12.0 + 10.5 * k, 8.5, rng.uniform(5, 19), 8.5)
        for k in range(9)
        for side in (-1, 1)
    ]
    return disparity(union(*houses, block(2.0, 110.0, 18, 30, 10)), size, pitch=-7)


def hills_painted(size: int) -> np.ndarray:
    """Four flat greys, one for each range of hills, as someone would paint them."""
    x, y = (np.arange(size) + 0.5) / size, (np.arange(size)[:, None] + 0.5) / size
    outlines = (
        (0.20, 0.40 + 0.050 * np.sin(9 * x + 1.0) + 0.025 * np.sin(23 * x)),
        (0.42, 0.52 + 0.060 * np.sin(6 * x + 3.6) + 0.020 * np.sin(17 * x + 1)),
        (0.68, 0.68 + 0.070 * np.sin(5 * x + 0.2) + 0.012 * np.sin(13 * x + 2)),
        (1.00, 0.86 + 0.055 * np.sin(4 * x + 2.4)),
    )
    picture = np.zeros((size, size))
    for grey, outline in outlines:
        cover = np.clip((y - outline) * size + 0.5, 0, 1)
        picture = picture + cover * (grey - picture)
    return picture


def valley(size: int) -> np.ndarray:
    """A winding valley between two ridges."""

    def height(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        off = (x - 4.0 * np.sin(z / 11) * np.minimum(z / 20, 1)) / 9
        return 9 * off**2 / (1 + off**2) * (1 + 0.25 * np.sin(z / 7))

    return disparity(relief(height, 1.5), size, pitch=0, ground=False)


def waves(size: int) -> np.ndarray:
    """A swell coming in."""

    def height(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        swell = 0.5 * np.sin(0.6 * z + 0.25 * x + 0.9 * np.sin(0.2 * x) + 2.0)
        return swell + 0.1 * np.sin(1.1 * x - 0.9 * z) - 0.9

    return disparity(relief(height, 0.75), size, pitch=5, ground=False)
