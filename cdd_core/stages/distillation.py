"""Stage ``distill``: a student learns to jump; the arithmetic is in ``distill``."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from cdd_core.config import CddConfig
from cdd_core.data.latents import LatentSet
from cdd_core.denoiser import Denoiser, Text, assemble, balance, frozen
from cdd_core.distill.adversarial import Discriminator, adversarial_step
from cdd_core.distill.cdd import Batch, Networks, baked_in, cdd_step
from cdd_core.distill.matching import matching_step
from cdd_core.export import distilled_card
from cdd_core.models import (
    LORA,
    Components,
    build_controlnet,
    condition_channels,
    load_module,
    low_rank,
    save_lora,
    widened,
)
from cdd_core.stages.denoising import draw_examples, preview_sheet, seen_condition
from cdd_core.tasks import TASKS
from cdd_core.trainer import Draws, Losses, Stage


class DistillationStage(Stage):
    """Holds the student, its target, the teacher and a critic if the recipe has one; the frozen base is shared.

    Args:
        config: the recipe.
        components: the family's networks.
        undistilled: the undistilled model's own networks; None if the recipe needs none.
        data: cached latents.

    Raises:
        ValueError: the recipe needs an undistilled model that isn't there, or that can't take part.
    """

    moving = ("target",)

    def __init__(
        self, config: CddConfig, components: Components, undistilled: nn.ModuleDict | None, data: LatentSet
    ) -> None:
        super().__init__()
        self.config, self.components, self.data = config, components, data
        self.schedule = components.schedule
        self.base, self.text_encoder = frozen(components.unet), frozen(components.text_encoder)
        frozen(components.vae)
        # Of the undistilled model where one takes part: a family may enlarge by a ControlNet.
        controlnet = TASKS[config.task].adapter == "controlnet" if undistilled is None else "controlnet" in undistilled
        # An adapter by itself takes pictures as they are; an undistilled editor takes their latents.
        self.pixels = config.scope == "adapter" or controlnet
        self.apart = self.pixels and not controlnet  # teacher and student look at different conditions
        if self.apart and config.start == "undistilled":
            raise ValueError(
                f"an adapter for {config.task} can't begin as the undistilled model, which has none; choose start=base"
            )
        if baked_in(config).evaluations > 1 and config.ode != "teacher" and config.matching_weight == 0:
            raise ValueError("guidance is baked in through the teacher; choose ode=teacher, or give matching a weight")
        if config.stages * config.teacher_steps > components.schedule.steps:
            raise ValueError(f"there are {components.schedule.steps} timesteps; choose fewer stages or teacher steps")
        if config.own_states > 0 and config.ode == "data" and config.adversarial_weight + config.own_anchor == 0:
            raise ValueError("own states need somebody who judges them: ode=teacher, a discriminator, or their anchor")
        if config.scope == "lora" and not controlnet and config.start == "base":
            raise ValueError(f"low-rank changes for {config.task} apply to the undistilled model: start=undistilled")
        if config.adversarial_weight > 0 and config.consistency == "eps" and config.anchor_weight == 0:
            raise ValueError("the adversarial loss is weighed against one of the signal; give the anchor a weight too")
        if undistilled is None and config.needs_undistilled:
            raise ValueError(f"this recipe needs the undistilled model; train it first (train --stage {config.task})")
        self.undistilled = nn.ModuleDict() if undistilled is None else frozen(undistilled)
        self.student = self._first_student()
        self.target = frozen(copy.deepcopy(self.student))
        self.critic = nn.ModuleDict()
        if config.matching_weight > 0:
            self.critic.update(_trainable({"unet": self.base, **self.undistilled}))
        self.discriminator: Discriminator | None = None
        if config.adversarial_weight > 0:
            shape = data.condition(torch.zeros(1, dtype=torch.long), pixels=self.pixels).shape
            context = self.base.config.cross_attention_dim
            self.discriminator = Discriminator(data.latents.shape[1], shape[1], context)

    def _first_student(self) -> nn.ModuleDict:
        config = self.config
        if config.start == "undistilled":
            parts = dict(self.undistilled)
        elif self.pixels:
            parts = {"controlnet": build_controlnet(self.base, condition_channels(config.net, self.components.vae))}
        else:
            parts = {"unet": widened(self.base, self.base.config.in_channels + self.data.latents.shape[1])}
        if config.scope in ("full", "lora"):
            parts = {"unet": self.base, **parts}
        student = _trainable(parts)
        if config.scope == "lora":
            low_rank(student["unet"], config.lora_rank)
        return student

    def go_on_from(self, folder: Path) -> None:
        """Begin with what was distilled before, instead of as the undistilled model.

        Raises:
            ValueError: the folder holds other networks, or this student is low-rank changes, which begin anew.
        """
        if self.config.scope == "lora":
            raise ValueError("low-rank changes begin anew; leave --go-on-from away, or choose another scope")
        found = {path.parent.name for path in folder.glob("*/config.json")}
        if found != set(self.student):
            raise ValueError(
                f"a student of scope {self.config.scope} is {' and '.join(self.student)}; {folder} holds "
                f"{' and '.join(sorted(found)) or 'no networks (of a run, name its export)'}"
            )
        for name, network in self.student.items():
            try:
                network.load_state_dict(load_module(folder / name).state_dict())
            except RuntimeError as error:
                raise ValueError(f"{folder / name} is of another shape than this student's") from error
        self.target.load_state_dict(self.student.state_dict())

    def inert(self) -> list[nn.Parameter]:
        """The weights that low-rank changes apply to."""
        return [p for p in self.student.parameters() if not p.requires_grad] if self.config.scope == "lora" else []

    def draw(self, generator: torch.Generator, count: int) -> Draws:
        # A student isn't guided, and what changes a picture is never drawn without it, or without a word. A ControlNet
        # that enlarges is: its picture comes as pixels, which are never left out, and its captions may be.
        asked = self.data.given is not None and (not self.pixels or self.config.task == "edit")
        draws = draw_examples(self.data, generator, count, 0.0 if asked else self.config.prompt_dropout)
        if self.config.shared_time:
            draws["time"] = draws["time"][:1].expand(count).clone()
        if self.config.own_states > 0:
            draws["own"] = torch.rand(count, generator=generator) < self.config.own_states
            draws["first"] = torch.randn(draws["eps"].shape, generator=generator)
        if self.critic:
            draws["critic_time"] = torch.rand(count, generator=generator)
            draws["critic_eps"] = torch.randn(draws["eps"].shape, generator=generator)
        if self.discriminator is not None:
            draws["instance_noise"] = torch.randn(draws["eps"].shape, generator=generator)
        return draws

    def forward(self, draws: Draws) -> Losses:
        rows = draws["rows"]
        with torch.no_grad():
            told = self.data.embedded(rows, draws["phrasing"], draws["dropped"], self.text_encoder)
            text = Text(told, self.data.nothing(self.text_encoder))
        condition = given = seen_condition(self.data, draws, self.pixels)
        if self.apart and self.undistilled:
            given = self.data.condition(rows)
        own = {name: draws.get(name) for name in ("own", "first")}
        batch = Batch(self.data.x(rows), draws["eps"], text, condition, draws["time"], given, **own)
        teacher = self._denoiser(self.undistilled) if self.undistilled else None
        networks = Networks(self._own(self.student), self._own(self.target), teacher)
        result = cdd_step(networks, batch, self.config)
        losses = {"loss": result.loss, "consistency": result.consistency, "anchor": result.anchor}
        # Gradients of a critic's own loss and of its opinion reach different networks, so one sum trains both.
        if self.critic:
            matching = matching_step(
                result.x0,
                self._denoiser(self.critic),
                teacher,
                text,
                given,
                draws["critic_eps"],
                draws["critic_time"],
                baked_in(self.config),
            )
            losses["loss"] = losses["loss"] + self.config.matching_weight * matching.student + matching.critic
            losses |= {"matching": matching.student.detach(), "critic": matching.critic.detach()}
        if self.discriminator is not None:
            noise = self.config.instance_noise * draws["instance_noise"]
            told = adversarial_step(self.discriminator, result.x0, batch.x, text.prompt, condition, noise)
            weight = self.config.adversarial_weight * balance(losses["loss"], told.student, result.x0)
            losses["loss"] = losses["loss"] + weight * told.student + told.discriminator
            losses |= {"deceived": told.student.detach(), "discriminator": told.discriminator.detach()}
        return losses

    def _denoiser(self, parts: nn.ModuleDict) -> Denoiser:
        return assemble(parts, self.base, self.schedule)

    def _own(self, parts: nn.ModuleDict) -> Denoiser:
        """A denoiser of the student's kind."""
        return assemble(parts, self.base, self.schedule, self.config.adapter_once)

    @torch.no_grad()
    def after_step(self) -> None:
        """theta-minus <- gamma theta-minus + (1 - gamma) theta."""
        pairs = zip(self.target.parameters(), self.student.parameters(), strict=True)
        target, student = zip(*((old, new) for old, new in pairs if new.requires_grad), strict=True)
        torch._foreach_lerp_(target, student, 1 - self.config.target_decay)

    @torch.no_grad()
    def preview(self, averaged: nn.Module) -> Tensor:
        denoiser = self._own(averaged)
        card = distilled_card(self.config, {}, self.data.gamma)
        return preview_sheet(self.data, self.components, denoiser, card, card.steps, self.pixels)

    def export(self, averaged: nn.Module, folder: Path) -> None:
        for name, module in averaged.items():
            if name == "unet" and self.config.scope == "lora":
                save_lora(module, folder / LORA)
            else:
                module.save_pretrained(folder / name)


def _trainable(parts: dict[str, nn.Module]) -> nn.ModuleDict:
    """Copies of these networks that learn."""
    return nn.ModuleDict({name: copy.deepcopy(net).requires_grad_(True) for name, net in parts.items()})
