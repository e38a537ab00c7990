"""Pictures and files that the tests of uploads share."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

SIDE = 64
RAMP = np.linspace(0, 65535, SIDE * SIDE).round().astype(np.uint16).reshape(SIDE, SIDE)
RAMP8 = (RAMP >> 8).astype(np.uint8)
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The picture as a file."""
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def frames(kind: str, count: int) -> bytes:
    """A file of several different frames or pages."""
    pictures = [Image.fromarray(np.roll(RAMP8, 20 * k, axis=0)) for k in range(count)]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:])
