"""Stage ``distill``: a student learns to jump; the arithmetic is in ``distill``."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from cdd_core.adapters import ControlNetAdapter
from cdd_core.config import CddConfig
from cdd_core.data.augment import augment_depth
from cdd_core.data.latents import LatentSet
from cdd_core.denoiser import Denoiser, Guidance, Text, frozen
from cdd_core.distill.cdd import Batch, Networks, cdd_step
from cdd_core.distill.matching import matching_step
from cdd_core.models import Components, build_controlnet, embed
from cdd_core.stages.denoising import CONDITION_GAMMA, draw_examples, preview_sheet
from cdd_core.tasks import depth_condition
from cdd_core.trainer import Draws, Losses, Stage


class DistillationStage(Stage):
    """Holds the student, its target, the teacher and a critic if the recipe has one; the frozen base is shared.

    Args:
        config: the recipe.
        components: the family's networks.
        undistilled: the undistilled ControlNet; needed to start from it or to follow its ODE.
        data: cached latents.
    """

    def __init__(
        self, config: CddConfig, components: Components, undistilled: nn.Module | None, data: LatentSet
    ) -> None:
        super().__init__()
        self.config, self.components, self.data = config, components, data
        base = frozen(components.unet)
        frozen(components.text_encoder)
        frozen(components.vae)
        self.schedule = components.schedule
        self.base, self.text_encoder = base, components.text_encoder
        needed = config.start == "undistilled" or config.ode == "teacher" or config.matching_weight > 0
        if undistilled is None and needed:
            raise ValueError("this recipe needs the undistilled adapter; train it first (train --stage depth)")
        self.undistilled = None if undistilled is None else frozen(undistilled)
        if config.start == "undistilled":
            controlnet = copy.deepcopy(undistilled).requires_grad_(True)
        else:
            controlnet = build_controlnet(base, config.net.embedding)
        parts: dict[str, nn.Module] = {"controlnet": controlnet}
        if config.scope == "full":
            parts["unet"] = copy.deepcopy(base).requires_grad_(True)
        self.student = nn.ModuleDict(parts)
        self.target = frozen(copy.deepcopy(self.student))
        self.critic = nn.ModuleDict()
        if config.matching_weight > 0:
            taught = {"controlnet": undistilled, "unet": base}
            self.critic.update({name: copy.deepcopy(net).requires_grad_(True) for name, net in taught.items()})

    def draw(self, generator: torch.Generator, count: int) -> Draws:
        draws = draw_examples(self.data, generator, count, self.config.prompt_dropout)
        if self.config.shared_time:
            draws["time"] = draws["time"][:1].expand(count).clone()
        if self.critic:
            draws["critic_time"] = torch.rand(count, generator=generator)
            draws["critic_eps"] = torch.randn(draws["eps"].shape, generator=generator)
        return draws

    def forward(self, draws: Draws) -> Losses:
        rows = draws["rows"]
        tokens = self.data.prompts(rows, draws["phrasing"], draws["dropped"])
        with torch.no_grad():
            text = Text(embed(self.text_encoder, tokens), embed(self.text_encoder, self.data.empty[None]))
        plain = depth_condition(self.data.disparity(rows), CONDITION_GAMMA)
        condition = augment_depth(plain[:, :1], draws["augment"]).expand(-1, 3, -1, -1)
        batch = Batch(self.data.x(rows), draws["eps"], text, condition, draws["time"])
        teacher = None if self.undistilled is None else self._denoiser(nn.ModuleDict({"controlnet": self.undistilled}))
        networks = Networks(self._denoiser(self.student), self._denoiser(self.target), teacher)
        result = cdd_step(networks, batch, self.config)
        losses = {"loss": result.loss, "consistency": result.consistency, "anchor": result.anchor}
        if not self.critic:
            return losses
        matching = matching_step(
            result.x0,
            self._denoiser(self.critic),
            teacher,
            text,
            condition,
            draws["critic_eps"],
            draws["critic_time"],
            Guidance(text=self.config.guidance),
        )
        # Their gradients reach different networks, so one sum trains both.
        total = result.loss + self.config.matching_weight * matching.student + matching.critic
        return {**losses, "loss": total, "matching": matching.student.detach(), "critic": matching.critic.detach()}

    def networks(self) -> list[nn.Module]:
        frozen_ones = [self.base] if self.undistilled is None else [self.base, self.undistilled]
        return [*self.student.values(), *self.target.values(), *self.critic.values(), *frozen_ones]

    def _denoiser(self, parts: nn.ModuleDict) -> Denoiser:
        unet = parts["unet"] if "unet" in parts else self.base  # noqa: SIM401 - a ModuleDict has no get
        return Denoiser(unet, ControlNetAdapter(parts["controlnet"]), self.schedule)

    @torch.no_grad()
    def after_step(self) -> None:
        """theta-minus <- gamma theta-minus + (1 - gamma) theta."""
        target, student = list(self.target.parameters()), list(self.student.parameters())
        torch._foreach_lerp_(target, student, 1 - self.config.target_decay)

    @torch.no_grad()
    def preview(self, averaged: nn.Module) -> Tensor:
        return preview_sheet(self.data, self.components, self._denoiser(averaged), self.text_encoder, 4)

    def export(self, averaged: nn.Module, folder: Path) -> None:
        for name, module in averaged.items():
            module.save_pretrained(folder / name)
