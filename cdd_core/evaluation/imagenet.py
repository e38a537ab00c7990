"""FID and LPIPS proper, by networks that learnt ImageNet: measured if asked for, since their weights are downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from cdd_core.evaluation.scenes import BATCH, HeldOut

INCEPTION = 2048  # features
Distance = Callable[[Tensor, Tensor], Tensor]  # of pictures in [0, 1], (B, 3, H, W) each, to (B,)


class Imagenet:
    """FID of a row's pictures to the reference renders (Heusel et al. 2017), and LPIPS to the true ones where a picture
    is given (Zhang et al. 2018), by torchmetrics.

    Args:
        scenes: held out; what is behind the first ``count`` is the reference, as for fd.
        inception: features (B, D) of pictures in uint8; None is the Inception network, downloaded.
        lpips: None is that of AlexNet, downloaded.

    Raises:
        ValueError: torch-fidelity or torchvision isn't installed.
    """

    def __init__(self, scenes: HeldOut, inception: nn.Module | None = None, lpips: Distance | None = None) -> None:
        self.scenes = scenes
        try:
            self._fid = FrechetInceptionDistance(inception or INCEPTION, reset_real_features=False)
            self._lpips = None if scenes.given is None else lpips or _alexnet()
        except ModuleNotFoundError as error:
            raise ValueError(
                "FID and LPIPS proper need two libraries that aren't here: pip install torch-fidelity torchvision, "
                "torchvision from where torch came from; or leave --imagenet away"
            ) from error
        for rows in np.array_split(np.arange(scenes.count, 2 * scenes.count), -(-scenes.count // BATCH)):
            self._fid.update((scenes.pictures(rows) * 255).round().byte(), real=True)

    @torch.no_grad()
    def figures(self, folder: Path) -> dict[str, float]:
        """``fid`` and, where a picture is given, ``lpips`` of a row that was measured with its pictures kept."""
        self._fid.reset()
        distances, start = [], 0
        for path in sorted(folder.glob("[0-9]*.safetensors")):
            pictures = load_file(path)["pictures"]
            self._fid.update(pictures, real=False)
            if self._lpips is not None:
                truth = self.scenes.pictures(np.arange(start, start + len(pictures)))
                distances.append(self._lpips(pictures.float() / 255, truth))
            start += len(pictures)
        found = {"fid": float(self._fid.compute())}
        return found | {"lpips": float(torch.cat(distances).mean())} if distances else found


def _alexnet() -> Distance:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity("alex", reduction="none", normalize=True)
