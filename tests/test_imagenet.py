"""FID and LPIPS proper, with small networks in place of those that are downloaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cdd_core.evaluation.imagenet import Imagenet
from cdd_core.evaluation.metrics import frechet
from cdd_core.evaluation.scenes import BATCH, HeldOut

N, SIZE = BATCH + 10, 32  # more than one batch


class Means(nn.Module):
    """Six features: the mean of every colour in the upper and the lower half."""

    num_features = 6

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.float().unflatten(2, (2, -1)).mean((3, 4)).flatten(1) / 255


def mean_square(pictures: Tensor, truth: Tensor) -> Tensor:
    return (pictures - truth).square().mean((1, 2, 3))


def kept(folder: Path, pictures: Tensor) -> Path:
    """Pictures in [0, 1] as a measured row keeps them."""
    folder.mkdir()
    for number, part in enumerate((pictures * 255).round().byte().split(BATCH)):
        save_file({"pictures": part.contiguous()}, folder / f"{number:04d}.safetensors")
    return folder


@pytest.fixture(scope="module")
def enlarged(tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    return HeldOut.open(tmp_path_factory.mktemp("scenes"), "upscale", N, 0, SIZE, 1)


def test_fid_is_the_frechet_distance_of_the_networks_features(enlarged: HeldOut, tmp_path: Path):
    imagenet = Imagenet(enlarged, Means(), mean_square)
    reference = enlarged.pictures(np.arange(N, 2 * N))
    drawn = enlarged.shown(np.arange(N), 1.0)
    features = [Means()((p * 255).round()).double() for p in (drawn, reference)]
    found = imagenet.figures(kept(tmp_path / "drawn", drawn))
    assert found["fid"] == pytest.approx(frechet(*features), rel=1e-3, abs=1e-6)
    again = imagenet.figures(kept(tmp_path / "reference", reference))
    assert again["fid"] == pytest.approx(0, abs=1e-6), "the row before is forgotten, the reference isn't"


def test_lpips_is_to_the_true_picture_of_the_same_scene(enlarged: HeldOut, tmp_path: Path):
    imagenet = Imagenet(enlarged, Means(), mean_square)
    truth = enlarged.pictures(np.arange(N))
    assert imagenet.figures(kept(tmp_path / "truth", truth))["lpips"] < 1e-5, "but for eight bits"
    darker = (truth - 0.25).clamp_min(0)
    expected = float(mean_square(darker, truth).mean())
    assert imagenet.figures(kept(tmp_path / "darker", darker))["lpips"] == pytest.approx(expected, rel=0.02)


def test_where_only_depth_is_given_there_is_no_true_picture(tmp_path: Path):
    scenes = HeldOut.open(tmp_path / "scenes", "depth", N, 0, SIZE, 1)
    imagenet = Imagenet(scenes, Means(), mean_square)
    assert set(imagenet.figures(kept(tmp_path / "drawn", torch.rand(N, 3, SIZE, SIZE)))) == {"fid"}


@pytest.mark.skipif(find_spec("torch_fidelity") is not None, reason="it would download")
def test_without_the_libraries_it_says_what_to_install(enlarged: HeldOut):
    with pytest.raises(ValueError, match="pip install torch-fidelity torchvision"):
        Imagenet(enlarged)
