"""Stages ``base`` and ``depth``: a denoiser learns to predict, all of it or its adapter alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdd_core.adapters import ControlNetAdapter, NoAdapter
from cdd_core.config import DenoisingConfig
from cdd_core.data.augment import DRAWS, augment_depth
from cdd_core.data.latents import LatentSet, decode
from cdd_core.denoiser import Denoiser, Guidance, Text, frozen, initial_noise
from cdd_core.models import Components, build_controlnet, embed
from cdd_core.sampler import Ddim, trajectory
from cdd_core.schedule import grid
from cdd_core.tasks import depth_condition
from cdd_core.trainer import Draws, Losses, Stage

CONDITION_GAMMA = 0.5


def draw_examples(data: LatentSet, generator: torch.Generator, count: int, prompt_dropout: float) -> Draws:
    """Which examples a batch holds and how they are seen; shared by every stage that trains on latents.

    Timesteps are stratified: one uniform draw in each of ``count`` equal parts, so a small batch sees all noise
    levels. ``time`` is in [0, 1).
    """
    shape = tuple(data.latents.shape[1:])
    return {
        "rows": torch.randint(len(data), (count,), generator=generator),
        "phrasing": torch.randint(data.tokens.shape[1], (count,), generator=generator),
        "dropped": torch.rand(count, generator=generator) < prompt_dropout,
        "time": (
            (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
        ).clamp_max(1 - 1e-6),
        "eps": torch.randn((count, *shape), generator=generator),
        "augment": torch.rand(count, DRAWS, generator=generator),
    }


class DenoisingStage(Stage):
    """The denoising objective on clean latents: mean squared error of the network's own output.

    Args:
        config: see :class:`DenoisingConfig`.
        components: the family's networks; with ``config.condition`` they are frozen and an adapter is trained.
        data: cached latents.
    """

    def __init__(self, config: DenoisingConfig, components: Components, data: LatentSet) -> None:
        super().__init__()
        self.config, self.components, self.data = config, components, data
        self.unet, self.text_encoder = components.unet, components.text_encoder
        if config.condition:
            frozen(self.unet)
            frozen(self.text_encoder)
            self.adapter = ControlNetAdapter(build_controlnet(self.unet, config.net.embedding))
            self.student = nn.ModuleDict({"controlnet": self.adapter.net})
        else:
            self.adapter = NoAdapter()
            self.student = nn.ModuleDict({"unet": self.unet, "text_encoder": self.text_encoder})
        self.schedule = components.schedule
        frozen(components.vae)

    def draw(self, generator: torch.Generator, count: int) -> Draws:
        return draw_examples(self.data, generator, count, self.config.prompt_dropout)

    def forward(self, draws: Draws) -> Losses:
        x, eps = self.data.x(draws["rows"]), draws["eps"]
        t = (draws["time"] * self.schedule.steps).long()
        tokens = self.data.prompts(draws["rows"], draws["phrasing"], draws["dropped"])
        z_t = self.schedule.noise(x, eps, t)
        denoiser = Denoiser(self.unet, self.adapter, self.schedule)
        output = denoiser.output(z_t, t, embed(self.text_encoder, tokens), self.condition(draws))
        loss = F.mse_loss(output.float(), self.schedule.to_output(x, eps, t))
        return {"loss": loss}

    def networks(self) -> list[nn.Module]:
        return [self.unet, *self.adapter.children()]

    def condition(self, draws: Draws) -> Tensor | None:
        """What the adapter sees of these examples, augmented; (B, 3, S, S)."""
        if not self.config.condition:
            return None
        plain = depth_condition(self.data.disparity(draws["rows"]), CONDITION_GAMMA)
        return augment_depth(plain[:, :1], draws["augment"]).expand(-1, 3, -1, -1)

    @torch.no_grad()
    def preview(self, averaged: nn.Module) -> Tensor:
        unet = averaged["unet"] if "unet" in averaged else self.unet
        text_encoder = averaged["text_encoder"] if "text_encoder" in averaged else self.text_encoder
        adapter = ControlNetAdapter(averaged["controlnet"]) if "controlnet" in averaged else self.adapter
        return preview_sheet(self.data, self.components, Denoiser(unet, adapter, self.schedule), text_encoder, 12)

    def export(self, averaged: nn.Module, folder: Path) -> None:
        for name, module in averaged.items():
            module.save_pretrained(folder / name)


@torch.no_grad()
def preview_sheet(
    data: LatentSet, components: Components, denoiser: Denoiser, text_encoder: nn.Module, steps: int
) -> Tensor:
    """Sixteen samples for the captions, and depth if it is used, of the first pictures; (3, H, W) in [0, 1]."""
    device = data.latents.device
    rows = torch.arange(16, device=device)
    false = torch.zeros(16, dtype=torch.bool, device=device)
    text = Text(
        prompt=embed(text_encoder, data.prompts(rows, 0 * rows, false)),
        empty=embed(text_encoder, data.empty[None]),
    )
    condition = depth_condition(data.disparity(rows), CONDITION_GAMMA)
    generators = [torch.Generator().manual_seed(int(row)) for row in rows]
    z = initial_noise(tuple(data.latents.shape[1:]), generators).to(device)
    times = grid(steps, denoiser.schedule.steps, denoiser.schedule.steps)
    sampler = Ddim(denoiser.schedule)
    for step in trajectory(denoiser, z, times, sampler, text, condition, Guidance()):
        last = step.x0
    pictures = decode(components.vae, last)
    return torch.cat([torch.cat(list(line), 2) for line in pictures.split(8)], 1)
