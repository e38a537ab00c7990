"""The faster attention kernel is kept, and drawing doesn't depend on which."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from cdd_core.attention import can_choose, keep_faster
from cdd_core.models import Components


class Rival(AttnProcessor):
    """Stands for xformers' kernel, which needs a GPU."""


@pytest.fixture
def network(components: Components, monkeypatch: pytest.MonkeyPatch) -> UNet2DConditionModel:
    def enable(self: UNet2DConditionModel) -> None:
        self.set_attn_processor(Rival())

    monkeypatch.setattr(UNet2DConditionModel, "enable_xformers_memory_efficient_attention", enable)
    return UNet2DConditionModel.from_config(components.unet.config)


def kind(network: UNet2DConditionModel) -> type:
    (found,) = {type(processor) for processor in network.attn_processors.values()}
    return found


@pytest.mark.parametrize(("slow", "kept"), [(Rival, AttnProcessor2_0), (AttnProcessor2_0, Rival)])
def test_the_faster_kernel_is_kept(network: UNet2DConditionModel, slow: type, kept: type, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("cdd_core.attention.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def run() -> None:
        clock[0] += 2.0 if kind(network) is slow else 1.0

    assert keep_faster([network], run) == {Rival: "xformers", AttnProcessor2_0: "sdpa"}[kept]
    assert kind(network) is kept


def test_a_kernel_that_fails_is_not_kept(network: UNet2DConditionModel):
    def run() -> None:
        if kind(network) is Rival:
            raise NotImplementedError("no operator found")

    assert keep_faster([network], run) == "sdpa"
    assert kind(network) is AttnProcessor2_0


def test_without_a_gpu_there_is_no_choice():
    assert not can_choose(torch.device("cpu"))
