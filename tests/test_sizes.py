"""Pictures of other sizes than the model's own, and networks that take turns on a small card."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cdd_core.data.latents import decode
from cdd_core.denoiser import Guidance
from cdd_core.inference import Plan, sample, sample_latents
from cdd_core.loading import Model, load
from cdd_core.offload import Turns
from cdd_core.uploads import prepare

PROMPTS, SEEDS = ["a lake", "night on a hill"], [5, 6]


def roomy(model: Model) -> Model:
    """The model with a card that allows one and a half times its size."""
    card = dataclasses.replace(model.card, sizes=(3 * model.size // 2,))
    return dataclasses.replace(model, card=card)


@pytest.mark.parametrize("task", ["depth", "edit"])
def test_a_size_the_card_allows(family: Path, task: str):
    model = roomy(load(family, task, "undistilled"))
    ramp = torch.linspace(0, 1, 32).repeat(32, 1).numpy()
    for size, expected in ((None, model.size), (model.sizes[1], 3 * model.size // 2)):
        last = list(sample(model, ramp, "a lake", 2, size=size))[-1]
        assert last.image.size == (expected, expected)


def test_other_sizes_are_refused(distilled: Model):
    with pytest.raises(ValueError, match=f"the size is one of {distilled.size} for this model, not 1000"):
        prepare(distilled, torch.rand(32, 32).numpy(), size=1000)


class Watched(Turns):
    """Notes whose turn it is."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.turns: list[nn.Module] = []

    def take(self, network: nn.Module) -> None:
        if network is not self._here:
            self.turns.append(network)
        super().take(network)


def test_networks_take_turns(family: Path, distilled: Model, conditions: Tensor):
    """Same pictures; every network comes once in a run that decodes at its end; a shared base joins once."""
    turns = Watched()
    model = load(family, "depth", "distilled", turns=turns)
    other = load(family, "depth", "undistilled", shared=model.components, turns=turns)
    how = Plan(4, "renoise", Guidance())
    expected = list(sample_latents(distilled, conditions[:2], PROMPTS, SEEDS, how))[-1].x0
    last = list(sample_latents(model, conditions[:2], PROMPTS, SEEDS, how))[-1].x0
    decode(model.components.vae, last)
    assert torch.equal(last, expected.cpu())
    shared = model.components
    assert [id(n) for n in turns.turns] == [id(n) for n in (shared.text_encoder, model.denoiser, shared.vae)]
    list(sample_latents(other, conditions[:2], PROMPTS, SEEDS, how))
    assert [id(n) for n in turns.turns[3:]] == [id(n) for n in (shared.text_encoder, other.denoiser)]


def test_whoever_waits_is_sent_back(monkeypatch: pytest.MonkeyPatch):
    """On the way to the device, the one that was there leaves it first."""
    moves: list[tuple[str, str]] = []
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    names = {id(first): "first", id(second): "second"}

    def moved(self: nn.Module, device: object) -> nn.Module:
        moves.append((names[id(self)], str(device)))
        return self

    monkeypatch.setattr(nn.Module, "to", moved)
    turns = Turns(torch.device("cpu", 0))
    for network in (first, second, first):
        turns.add(network)
        turns.add(network)
    for network in (first, first, second, first):
        network(torch.zeros(1, 2))
    there, back = "cpu:0", "cpu"
    assert moves == [
        ("first", there),
        *[("first", back), ("second", there)],
        *[("second", back), ("first", there)],
    ]
