"""The safety checker that public Stable Diffusion comes with: pictures it objects to are not shown."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image, ImageDraw, ImageFont
from transformers import CLIPImageProcessor

NETWORK, EXTRACTOR = "safety_checker", "feature_extractor"  # folders, named as in a diffusers pipeline
WITHHELD = "withheld by\nthe safety checker"


class SafetyChecker:
    """Compares CLIP's view of a picture with a list of concepts (Rando et al. 2022, arXiv 2210.04610, on its limits).

    Args:
        network: of diffusers.
        extractor: brings pictures to what the network takes.
    """

    def __init__(self, network: StableDiffusionSafetyChecker, extractor: CLIPImageProcessor) -> None:
        self.network, self.extractor = network, extractor

    @torch.no_grad()
    def objects(self, picture: Image.Image) -> bool:
        """Whether the picture should not be shown."""
        weight = next(self.network.parameters())
        given = self.extractor(picture.convert("RGB"), return_tensors="pt").pixel_values
        # It would blacken what it is given second; only its verdict is of use here.
        _, found = self.network(given.to(weight.device, weight.dtype), [torch.zeros(1)])
        return bool(found[0])

    def passed(self, picture: Image.Image) -> Image.Image:
        """The picture, or a grey one of its size that says why it is missing."""
        if not self.objects(picture):
            return picture
        blank = Image.new("RGB", picture.size, "#808080")
        font = ImageFont.load_default(max(9, picture.width // 14))
        middle = (picture.width / 2, picture.height / 2)
        ImageDraw.Draw(blank).multiline_text(middle, WITHHELD, "white", font, anchor="mm", align="center")
        return blank


def load_safety_checker(folder: Path, device: str | torch.device = "cpu") -> SafetyChecker:
    """Read it from a family's folder, safetensors only.

    Raises:
        OSError: it isn't there.
    """
    network = StableDiffusionSafetyChecker.from_pretrained(folder / NETWORK, use_safetensors=True)
    extractor = CLIPImageProcessor.from_pretrained(folder / EXTRACTOR)
    return SafetyChecker(network.to(device).eval().requires_grad_(False), extractor)
