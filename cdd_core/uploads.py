"""From an upload to what a model sees of it: depth map, outlines, picture, or a small picture plainly enlarged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdd_core.data.degrade import degrade, enlarged
from cdd_core.estimator import DepthEstimator
from cdd_core.images import open_image, to_disparity, to_picture, to_small_picture
from cdd_core.loading import Model
from cdd_core.tasks import EDGES, UPSCALE, depth_condition, drawn_lines

MOST_TILES = 4  # along a side of a picture that a processor enlarges, overlaps aside
LARGEST = 2048  # pixels a side of a picture that a GPU enlarges


def sight(model: Model) -> tuple[object, ...]:
    """What of a model :func:`prepare` depends on: models of one task in which this is equal see an upload alike."""
    return model.size, model.sizes, model.card.condition_gamma


def prepare(
    model: Model,
    image: str | Path | Image.Image | np.ndarray,
    invert: bool = False,
    degradation: float = 0.0,
    estimator: DepthEstimator | None = None,
    size: int | None = None,
    largest: int | None = None,
    lines: bool = False,
) -> Tensor:
    """An upload as the model sees it, pixels in [0, 1]: (1, 3, S, S), or whatever shape a picture to enlarge has.

    Args:
        model: see :func:`load`.
        image: the upload.
        invert: of a depth map, dark is near.
        degradation: of a picture to enlarge. At 0 its own pixels are enlarged (of large ones a smaller version);
            above, it is made four times smaller and damaged first, with this strength.
        estimator: for depth, the upload is a photo, and this says how near everything is.
        size: pixels a side of what will be drawn, one of ``model.sizes``; the model's own if left out.
        largest: most pixels a side of an enlarged picture; what its device draws soon enough if left out.
        lines: for edges, the upload shows them already: an edge map, or a drawing with dark lines on white.

    Raises:
        ImageError: the upload can't be used; the message says why.
        ValueError: a size that the model can't draw.
    """
    picture, task, size = open_image(image), model.card.task, size or model.size
    if size not in model.sizes:
        raise ValueError(f"the size is one of {', '.join(map(str, model.sizes))} for this model, not {size}")
    if task in EDGES:
        return (drawn_lines if lines else EDGES[task])(to_picture(picture, size))
    if task == "depth" and estimator is not None:
        return depth_condition(estimator(to_picture(picture, size)), model.card.condition_gamma)
    if task == "depth":
        return depth_condition(to_disparity(picture, size, invert=invert), model.card.condition_gamma)
    if task == "edit":
        return to_picture(picture, size)
    given = small_picture(model, picture, degradation, largest)
    return enlarged(given, (given.shape[-2] * UPSCALE, given.shape[-1] * UPSCALE))


def small_picture(model: Model, picture: Image.Image, degradation: float, largest: int | None = None) -> Tensor:
    """What an upscaler's condition is enlarged from, pixels in [0, 1] (1, 3, h, w); see :func:`prepare`."""
    if degradation == 0:
        return to_small_picture(picture, model.size // UPSCALE, _largest(model, largest) // UPSCALE)
    clean = undamaged(model, picture, largest)
    return degrade(clean[0], UPSCALE, degradation, torch.Generator().manual_seed(0))[None]


def undamaged(model: Model, picture: Image.Image, largest: int | None = None) -> Tensor:
    """What :func:`prepare` makes small and damages, and what the enlarged picture should be: (1, 3, H, W)."""
    clean = to_small_picture(picture, model.size, _largest(model, largest))
    return clean[..., : clean.shape[-2] // UPSCALE * UPSCALE, : clean.shape[-1] // UPSCALE * UPSCALE]


def _largest(model: Model, asked: int | None) -> int:
    """Most pixels a side of an enlarged picture."""
    soon = max(LARGEST if model.device.type == "cuda" else 0, MOST_TILES * model.size)
    return soon if asked is None else max(asked, model.size)
