"""What a run's results are measured by, where something is known of the truth."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from app.engine_models import Shelf
from app.engine_requests import largest_of
from app.schema import CompareRequest
from cdd_core.evaluation.metrics import depth_errors
from cdd_core.evaluation.probe import probe_depth
from cdd_core.images import open_image, to_disparity, to_picture
from cdd_core.uploads import undamaged


@torch.no_grad()
def quality(
    shelf: Shelf, image: Image.Image, given: Image.Image, request: CompareRequest
) -> tuple[tuple[str, float], ...]:
    """How near a result comes to the given depth, or to what it should be: names and figures, if there are any.

    Args:
        shelf: the models, and the probe that reads depth off pictures.
        image: the result.
        given: the upload.
        request: what was asked for.
    """
    if request.task == "depth" and shelf.probe is not None and not request.estimate:
        truth = probe_depth(to_disparity(given, image.width, invert=request.invert))
        reading = shelf.probe(to_picture(image, image.width))
        return (("depth error", float(depth_errors(reading, truth))),)
    if request.task == "upscale" and request.degradation > 0:
        model = shelf.model("upscale", "distilled")
        truth, drawn = (undamaged(model, picture, largest_of(model)) for picture in (given, image))
        return (("PSNR", _psnr(drawn, truth)),)
    if request.truth is not None:
        truth, drawn = (to_picture(picture, image.width) for picture in (open_image(request.truth), image))
        return (("PSNR", _psnr(drawn, truth)),)
    return ()


def _psnr(drawn: Tensor, truth: Tensor) -> float:
    from torchmetrics.functional.image import peak_signal_noise_ratio  # most of a second, and few ask

    return float(peak_signal_noise_ratio(drawn, truth, data_range=1.0))
