"""What a run's results are measured by, where something is known of the truth."""

from __future__ import annotations

from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from app.engine_models import Shelf
from app.engine_requests import largest_of
from app.schema import CompareRequest
from cdd_core.evaluation.metrics import depth_errors
from cdd_core.evaluation.probe import probe_depth
from cdd_core.images import open_image, to_disparity, to_picture, to_pil
from cdd_core.loading import Model
from cdd_core.uploads import small_picture, undamaged

Figures = tuple[tuple[str, float], ...]  # names and values, if there are any


class Readouts:
    """How near pictures come to the given depth, or to what they should be.

    Args:
        shelf: the models, and the probe that reads depth off pictures.
        given: the upload.
        request: what was asked for.
    """

    def __init__(self, shelf: Shelf, given: Image.Image, request: CompareRequest) -> None:
        self._shelf, self._given, self._request = shelf, given, request

    def before(self, seen: Image.Image) -> tuple[Image.Image | None, Image.Image | None, Figures]:
        """What is known before a run: the small picture that is enlarged, the truth, and how near ``seen`` is to it."""
        small = None
        if self._request.task == "upscale":
            model = self._upscaler
            small = to_pil(small_picture(model, self._given, self._request.degradation, largest_of(model))[0])
        return small, self.truth(seen.width), self.nearness(seen)

    @torch.no_grad()
    def of(self, image: Image.Image) -> Figures:
        """Of a result."""
        if self._request.task != "depth":
            return self.nearness(image)
        if self._shelf.probe is None or self._request.estimate:
            return ()
        truth = probe_depth(to_disparity(self._given, image.width, invert=self._request.invert))
        reading = self._shelf.probe(to_picture(image, image.width))
        return (("depth error", float(depth_errors(reading, truth))),)

    @torch.no_grad()
    def nearness(self, image: Image.Image) -> Figures:
        """Of any picture of a result's size, to what it should be."""
        if self._clean is not None:
            return (("PSNR", _psnr(self._undamaged(image), self._clean)),)
        if self._request.truth is not None:
            truth, drawn = (to_picture(each, image.width) for each in (open_image(self._request.truth), image))
            return (("PSNR", _psnr(drawn, truth)),)
        return ()

    def truth(self, size: int) -> Image.Image | None:
        """What a result should be, as far as that is known; ``size`` is that of a square result."""
        if self._clean is not None:
            return to_pil(self._clean[0])
        known = self._request.truth
        return None if known is None else to_pil(to_picture(open_image(known), size)[0])

    @cached_property
    def _clean(self) -> Tensor | None:
        """The upload before it was damaged; None if it wasn't, or had to be enlarged first: then nobody knows."""
        request = self._request
        if request.task != "upscale" or request.degradation == 0:
            return None
        return None if min(self._given.size) < self._upscaler.size else self._undamaged(self._given)

    @property
    def _upscaler(self) -> Model:
        return self._shelf.model("upscale", self._shelf.student("upscale"))

    def _undamaged(self, picture: Image.Image) -> Tensor:
        return undamaged(self._upscaler, picture, largest_of(self._upscaler))


def _psnr(drawn: Tensor, truth: Tensor) -> float:
    from torchmetrics.functional.image import peak_signal_noise_ratio  # most of a second, and few ask

    return float(peak_signal_noise_ratio(drawn, truth, data_range=1.0))
