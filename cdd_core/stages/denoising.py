"""Stages ``base``, ``depth`` and ``edit``: a denoiser learns to predict, all of it or its adapter alone."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from cdd_core.cards import Card
from cdd_core.config import DenoisingConfig
from cdd_core.data.augment import DRAWS
from cdd_core.data.latents import LatentSet, decode
from cdd_core.denoiser import Denoiser, Guidance, Text, assemble, frozen, initial_noise
from cdd_core.export import undistilled_card
from cdd_core.models import Components, build_controlnet, condition_channels, widened
from cdd_core.sampler import build_sampler, trajectory
from cdd_core.schedule import per_sample
from cdd_core.tasks import TASKS
from cdd_core.trainer import Draws, Losses, Stage


def draw_examples(data: LatentSet, generator: torch.Generator, count: int, dropout: float) -> Draws:
    """Which examples a batch holds and how they are seen; shared by every stage that trains on latents.

    Timesteps are stratified: one uniform draw in each of ``count`` equal parts, so a small batch sees all noise
    levels. ``time`` is in [0, 1). The prompt is ``dropped`` with probability ``dropout``, and so is a given picture
    (``blind``), half of the times together with it: guidance needs all three (InstructPix2Pix, section 3.2.1).
    """
    shape = tuple(data.latents.shape[1:])
    draws = {
        "rows": torch.randint(data.learnt, (count,), generator=generator),
        "phrasing": torch.randint(data.tokens.shape[1], (count,), generator=generator),
    }
    chance = torch.rand(count, generator=generator)
    return {
        **draws,
        "dropped": chance < dropout,
        "blind": (chance >= dropout / 2) & (chance < 1.5 * dropout),
        "time": (
            (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
        ).clamp_max(1 - 1e-6),
        "eps": torch.randn((count, *shape), generator=generator),
        "augment": torch.rand(count, DRAWS, generator=generator),
    }


def seen_condition(data: LatentSet, draws: Draws, pixels: bool = False) -> Tensor:
    """The condition of a batch as it is trained on: depth augmented, given pictures now and then left out.

    As pixels they are always there: an adapter that takes those is not guided.
    """
    condition = data.condition(draws["rows"], draws["augment"], pixels)
    if data.given is None or pixels:
        return condition
    return torch.where(per_sample(draws["blind"], condition), 0.0, condition)


class DenoisingStage(Stage):
    """The denoising objective on clean latents: mean squared error of the network's own output.

    Args:
        config: see :class:`DenoisingConfig`.
        components: the family's networks. Without ``config.condition`` the U-Net learns; with it all of them are
            frozen, and a ControlNet or a copy of the U-Net with further input channels is trained. The text encoder
            stays as it is: trained along, at the U-Net's learning rate, it forgot the rarer words again.
        data: cached latents.
    """

    def __init__(self, config: DenoisingConfig, components: Components, data: LatentSet) -> None:
        super().__init__()
        self.config, self.components, self.data = config, components, data
        self.schedule = components.schedule
        self.base: UNet2DConditionModel | None = None  # where the student is an adapter on it
        self.text_encoder = components.text_encoder
        frozen(components.vae)
        frozen(self.text_encoder)
        unet = components.unet
        if not config.condition:
            self.student = nn.ModuleDict({"unet": unet})
        elif TASKS[config.condition].adapter == "controlnet":
            self.base = frozen(unet)
            widths = condition_channels(config.net, components.vae)
            self.student = nn.ModuleDict({"controlnet": build_controlnet(unet, widths)})
        else:
            wide = widened(unet, unet.config.in_channels + data.latents.shape[1])
            self.student = nn.ModuleDict({"unet": wide.requires_grad_(True)})

    def still(self) -> dict[str, nn.Module]:
        """Without the text encoder where it is exported too: half precision would round it."""
        exported = "" if self.config.condition else "text_encoder"
        return {name: network for name, network in super().still().items() if name != exported}

    def draw(self, generator: torch.Generator, count: int) -> Draws:
        return draw_examples(self.data, generator, count, self.config.prompt_dropout)

    def forward(self, draws: Draws) -> Losses:
        x, eps = self.data.x(draws["rows"]), draws["eps"]
        t = (draws["time"] * self.schedule.steps).long()
        texts = self.data.embedded(draws["rows"], draws["phrasing"], draws["dropped"], self.text_encoder)
        z_t = self.schedule.noise(x, eps, t)
        condition = seen_condition(self.data, draws) if self.config.condition else None
        denoiser = assemble(self.student, self.base, self.schedule)
        output = denoiser.output(z_t, t, texts, condition)
        loss = F.mse_loss(output.float(), self.schedule.to_output(x, eps, t))
        return {"loss": loss}

    @torch.no_grad()
    def preview(self, averaged: nn.Module) -> Tensor:
        denoiser = assemble(averaged, self.base, self.schedule)
        card = undistilled_card(self.config.condition or "depth", {}, self.schedule.steps, self.data.gamma, 1.0)
        return preview_sheet(self.data, self.components, denoiser, card, 12)

    def export(self, averaged: nn.Module, folder: Path) -> None:
        for name, module in averaged.items():
            module.save_pretrained(folder / name)
        if not self.config.condition:  # the U-Net means words by this encoder only, and that by this tokenizer
            self.text_encoder.save_pretrained(folder / "text_encoder")
            self.components.tokenizer.save_pretrained(folder / "tokenizer")


@torch.no_grad()
def preview_sheet(
    data: LatentSet, components: Components, denoiser: Denoiser, card: Card, count: int, pixels: bool = False
) -> Tensor:
    """What becomes of the texts and conditions that are kept from learning; (3, H, W) in [0, 1].

    Args:
        data: its last rows are drawn, or the first ones of a set too small to keep any.
        components: decode, and embed texts.
        denoiser: that is trained.
        card: how it will be sampled.
        count: steps.
        pixels: conditions are pictures, see :meth:`LatentSet.condition`.
    """
    device, encoder, schedule = data.empty.device, components.text_encoder, denoiser.schedule
    rows = torch.arange(data.learnt, len(data), device=device)
    rows = rows if len(rows) else torch.arange(len(data), device=device)
    rows = rows[: 8 if 8 < len(rows) < 16 else None]  # whole lines
    false = torch.zeros(len(rows), dtype=torch.bool, device=device)
    text = Text(prompt=data.embedded(rows, 0 * rows, false, encoder), empty=data.nothing(encoder))
    generators = [torch.Generator().manual_seed(int(row)) for row in rows]

    def noise() -> Tensor:
        return initial_noise(tuple(data.latents.shape[1:]), generators)

    count, named = min(count, card.stages), card.sampler_for(count)
    sampler, times = build_sampler(named, count, card, schedule, components.scheduler, noise)
    condition = data.condition(rows, pixels=pixels)
    for step in trajectory(denoiser, noise().to(device), times, sampler, text, condition, Guidance()):
        last = step.x0
    pictures = torch.cat([decode(components.vae, one) for one in last.split(1)])  # a large one takes gigabytes
    return torch.cat([torch.cat(list(line), 2) for line in pictures.split(8)], 1)
