"""What a run's results are measured by, where something is known of the truth."""

from __future__ import annotations

import torch
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio

from app.engine_models import Shelf
from app.schema import CompareRequest
from cdd_core.evaluation.metrics import depth_errors
from cdd_core.evaluation.probe import probe_depth
from cdd_core.images import to_disparity, to_picture
from cdd_core.inference import undamaged


@torch.no_grad()
def quality(
    shelf: Shelf, images: tuple[Image.Image, ...], given: Image.Image, request: CompareRequest
) -> tuple[tuple[str, float], ...]:
    """How near the results come to the given depth, or to the undamaged picture: names and figures, if there are any.

    Args:
        shelf: the models, and the probe that reads depth off pictures.
        images: the results of a lane.
        given: the upload.
        request: what was asked for.
    """
    if request.task == "depth" and shelf.probe is not None and not request.estimate:
        size = images[0].width
        truth = probe_depth(to_disparity(given, size, invert=request.invert))
        reading = shelf.probe(torch.cat([to_picture(image, size) for image in images]))
        return (("depth error", float(depth_errors(reading, truth.expand(len(images), -1, -1, -1)).mean())),)
    if request.task == "upscale" and request.degradation > 0:
        model = shelf.model("upscale", "distilled")
        truth, *drawn = (undamaged(model, picture) for picture in (given, *images))
        drawn = torch.cat(drawn)
        return (("PSNR", float(peak_signal_noise_ratio(drawn, truth.expand_as(drawn), data_range=1.0))),)
    return ()
