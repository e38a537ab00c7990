"""Depth from a photo, for people who have no depth map: a monocular estimator of ``transformers``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdd_core.images import ImageError

PATCH = 14  # pixels of a patch of Depth Anything's encoder; sides are multiples of it
SIDE = 37 * PATCH  # what it was trained on
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as its encoder expects
FLAT = 1e-4


class DepthEstimator:
    """Relative disparity of a photo, near bright (Depth Anything V2: Yang et al. 2024, arXiv 2406.09414).

    Args:
        network: takes normalised pictures, gives ``predicted_depth`` that grows towards the viewer.
        side: pixels a side of what it is given, a multiple of 14.
    """

    def __init__(self, network: nn.Module, side: int = SIDE) -> None:
        self.network, self.side = network, side

    @torch.no_grad()
    def __call__(self, picture: Tensor) -> Tensor:
        """Disparity in [0, 1] of pictures in [0, 1]; (B, 3, S, S) to (B, 1, S, S).

        Raises:
            ImageError: it finds no depth in the photo at all.
        """
        weight = next(self.network.parameters())
        mean, spread = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, SPREAD))
        given = F.interpolate(picture.cpu(), size=(self.side, self.side), mode="bicubic", antialias=True)
        seen = ((given.clamp(0, 1) - mean) / spread).to(weight.device, weight.dtype)
        found = self.network(pixel_values=seen).predicted_depth.float()[:, None].cpu()
        low, high = found.amin((1, 2, 3), keepdim=True), found.amax((1, 2, 3), keepdim=True)
        if torch.any(high - low < FLAT * high.abs().clamp_min(1.0)):
            raise ImageError("No depth was found in this photo; choose one with something near and something far.")
        resized = F.interpolate((found - low) / (high - low), size=picture.shape[-2:], mode="bilinear")
        return resized.to(picture.device)


def load_estimator(folder: Path, device: str | torch.device = "cpu") -> DepthEstimator:
    """Read an estimator's folder, safetensors only.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: its depths grow away from the viewer, which this is not made for.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no depth estimator; get one: python -m cdd_core fetch --family sd15")
    from transformers import AutoConfig, AutoModelForDepthEstimation  # most of a second, and few have an estimator

    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "depth_estimation_type", "relative") != "relative":
        raise ValueError(f"the estimator in {folder} measures distance; one of relative depth is needed")
    network = AutoModelForDepthEstimation.from_pretrained(folder, use_safetensors=True)
    return DepthEstimator(network.to(device).eval().requires_grad_(False))
