"""What only a GPU can show: python -m pytest tests/test_cuda.py --device cuda."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cdd_core.data import store
from cdd_core.evaluation.runner import autoencoded
from cdd_core.graphs import SHAPES, Replayed, replay_networks
from cdd_core.inference import sample
from cdd_core.loading import load
from cdd_core.models import Components
from cdd_core.speed import compile_blocks

POCKET, PEAKS = Path("checkpoints/pocket"), Path("assets/examples/peaks.png")


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    if device.type != "cuda":
        pytest.skip("there is no GPU; --device cuda asks for one")
    return device


def inputs(seed: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, text = torch.randn(batch, 4, 8, 8, generator=generator), torch.randn(batch, 24, 32, generator=generator)
    return z.to(device), torch.full((batch,), 100 * seed + 7, device=device), text.to(device)


def test_without_a_gpu_a_replayed_network_is_called_as_it_is(components: Components):
    network = copy.deepcopy(components.unet)
    given = inputs(1, 2, torch.device("cpu"))
    with torch.no_grad():
        before = network(*given).sample
        replay_networks(nn.ModuleList([network]))
        replay_networks(nn.ModuleList([network]))  # once more is once
        after = network(*given).sample
    assert isinstance(network.forward, Replayed)
    assert not isinstance(network.forward.forward, Replayed)
    assert torch.equal(before, after)


def test_pictures_are_encoded_where_the_models_are(gpu: torch.device):
    model = load(POCKET, "depth", "distilled", gpu)
    pictures = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    there, here = autoencoded(model, pictures), autoencoded(load(POCKET, "depth", "distilled", "cpu"), pictures)
    torch.testing.assert_close(there, here, rtol=0, atol=0.05)


@pytest.mark.parametrize("compiled", [False, True])
def test_replayed_networks_compute_the_same(components: Components, gpu: torch.device, compiled: bool):
    """With other values, in more shapes than are remembered; and results stay what they were."""
    plain = copy.deepcopy(components.unet).to(gpu)
    replayed = copy.deepcopy(plain)
    if compiled:
        compile_blocks(replayed.mid_block)
    replay_networks(nn.ModuleList([replayed]))
    replays = 0
    with torch.no_grad():
        asked = [inputs(seed % 9, 1 + seed // 4 % (SHAPES + 1), gpu) for seed in range(4 * SHAPES + 8)]
        expected = [plain(*given).sample for given in asked]
        found = []
        for given in asked:
            before = [graph for graph in replayed.forward._known.values() if graph]
            found.append(replayed(*given, return_dict=False)[0])
            replays += list(replayed.forward._known.values())[-1] in before
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert replays == 2 * (SHAPES + 2), "of four calls with a shape the last two"
    assert len(replayed.forward._known) == SHAPES


def test_compiled_blocks_learn_the_same(components: Components, gpu: torch.device):
    plain = copy.deepcopy(components.unet).to(gpu).requires_grad_(True)
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled)
    for network in (plain, compiled):
        (network(*inputs(1, 2, gpu)).sample - 1).square().mean().backward()
    for (name, own), learnt in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(learnt.grad, own.grad, rtol=1e-2, atol=1e-5, msg=lambda told, n=name: f"{n}: {told}")


def test_gradients_pass_by_the_graphs(components: Components, gpu: torch.device):
    network = copy.deepcopy(components.unet).to(gpu).requires_grad_(True)
    replay_networks(nn.ModuleList([network]))
    network(*inputs(1, 1, gpu)).sample.sum().backward()
    assert all(p.grad is not None for p in network.conv_in.parameters())


@pytest.mark.parametrize("edited", [False, True])
def test_a_gpu_renders_the_same_world(gpu: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: bool):
    """By several processes, each with a block of it."""
    monkeypatch.setattr(store, "BLOCK", 20)
    here, there = (store.render_store(tmp_path / d, 40, 0, 64, 0, 2, edited, d) for d in ("cpu", str(gpu)))
    assert np.array_equal(here.codes, there.codes)
    for ours, theirs, unit in ((here.image, there.image, 1), (here.disparity, there.disparity, 257)):
        assert np.abs(ours.astype(np.float32) - theirs).mean() <= 0.5 * unit, "of 255, on average"


def test_the_shipped_model_draws_the_same_picture_as_on_a_cpu(gpu: torch.device):
    pictures = []
    for device in (torch.device("cpu"), gpu):
        model = load(POCKET, "depth", "distilled", device)
        if device.type == "cuda":
            replay_networks(model.denoiser, model.components.vae)
        *_, last = sample(model, PEAKS, "a sunny landscape in autumn", 4, seed=3)
        pictures.append(np.asarray(last.image, dtype=np.float32))
    assert np.abs(pictures[0] - pictures[1]).mean() < 1.0, "of 255, on average"
