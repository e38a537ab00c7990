"""What is made of a photo before a network sees it: outlines, soft edges, estimated depth."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from cdd_core.estimator import DepthEstimator, load_estimator
from cdd_core.images import ImageError
from cdd_core.tasks import drawn_lines, outlines, soft_edges


def square(side: int = 64) -> Tensor:
    """White on black, in the middle."""
    picture = torch.zeros(1, 3, side, side)
    picture[..., side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    return picture


def test_outlines_are_where_the_square_ends():
    found = outlines(square())[0]
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(found[0], found[1])
    assert found[0, 30:34, 30:34].sum() == 0, "nothing inside"
    assert found[0, :12].sum() == 0, "nothing outside"
    assert found[0, 32, 14:19].sum() >= 1, "a line at the left"
    assert found.mean() < 0.1


def test_lines_that_are_there_already_are_white_on_black_whichever_way_round_they_came():
    drawing = torch.zeros(2, 3, 16, 16)
    drawing[:, :, 4] = 0.7
    drawing[1] = 1 - drawing[1]
    one, other = drawn_lines(drawing)
    torch.testing.assert_close(one, drawing[0])
    torch.testing.assert_close(other, drawing[0])


def test_soft_edges_grow_with_contrast():
    weak, strong = 0.3 * square(), square()
    both = torch.cat([weak, strong], 3)
    found = soft_edges(both)[0, 0]
    assert found.max() == 1
    assert 0 < found[32, 16] < found[32, 64 + 16]
    assert soft_edges(torch.full((1, 3, 16, 16), 0.4)).abs().max() < 1e-3


class Brightness(nn.Module):
    """An "estimator" for which bright is near."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(predicted_depth=self.scale * pixel_values.mean(1))


def test_estimated_depth_fills_the_range_near_bright():
    ramp = torch.linspace(0, 1, 56).view(1, 1, 1, 56).expand(1, 3, 56, 56)
    found = DepthEstimator(Brightness(), side=28)(ramp)
    assert found.shape == (1, 1, 56, 56)
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.all(found[0, 0, 28].diff() >= -1e-6), "near where it is bright"
    assert found[..., 0].max() < 0.1 < 0.9 < found[..., -1].min()


def test_a_photo_without_depth_is_a_sentence():
    with pytest.raises(ImageError, match="No depth was found"):
        DepthEstimator(Brightness(), side=28)(torch.full((1, 3, 56, 56), 0.5))


def tiny(folder: Path, kind: str = "relative") -> Path:
    """Depth Anything in miniature, as the Hub has it."""
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type=kind,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DepthAnythingForDepthEstimation(config)
        for layer in (network.head.conv1, network.head.conv2, network.head.conv3):
            layer.weight.data = 5 * layer.weight.data.abs()  # or its last ReLU would shut everything off
        network.save_pretrained(folder)
    return folder


def test_the_real_class_estimates(tmp_path: Path):
    estimator = load_estimator(tiny(tmp_path / "estimator"))
    found = estimator(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (2, 1, 64, 64)
    assert torch.all(found.amin((1, 2, 3)) < 0.2)
    assert torch.all(found.amax((1, 2, 3)) > 0.8)


def test_estimators_of_distance_and_missing_ones_are_told(tmp_path: Path):
    with pytest.raises(ValueError, match="measures distance"):
        load_estimator(tiny(tmp_path / "metric", "metric"))
    with pytest.raises(FileNotFoundError, match="no depth estimator"):
        load_estimator(tmp_path / "nowhere")
