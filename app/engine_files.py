"""A step's picture as it leaves the engine: marked, as a file that says how it was made, and small if it is large."""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

from PIL import Image

from cdd_core.png import XMP, notes, png_bytes
from cdd_core.watermark import mark

SMALL = 288  # pixels a side: two on a screen for each of a film strip's, and fifty of them are packed in seconds


class Files(NamedTuple):
    """The picture, its PNG, and a smaller JPEG; empty where the picture is no larger."""

    image: Image.Image
    png: bytes
    small: bytes


def files_of(picture: Image.Image, facts: dict[str, object], watermark: bool) -> Files:
    """What is handed out of a picture.

    Args:
        picture: as drawn, RGB.
        facts: how it was made.
        watermark: put the invisible mark into all of them; it doesn't survive being made smaller.
    """
    image = mark(picture) if watermark else picture
    return Files(image, png_bytes(image, facts), _small(picture, facts, watermark))


def _small(picture: Image.Image, facts: dict[str, object], watermark: bool) -> bytes:
    if max(picture.size) <= SMALL:
        return b""
    small, written = picture.copy(), BytesIO()
    small.thumbnail((SMALL, SMALL))
    small = mark(small) if watermark else small
    small.save(written, "JPEG", quality=90, subsampling=0, xmp=notes(facts)[XMP].encode())
    return written.getvalue()
