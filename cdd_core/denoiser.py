"""One denoiser for teacher, target, student and sampler: they differ only in the weights it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, distributed, nn

from cdd_core.adapters import Adapter, ConcatAdapter, ControlNetAdapter, NoAdapter, OnceControlNetAdapter
from cdd_core.schedule import Prediction, Schedule


@dataclass(frozen=True)
class Text:
    """Embedded prompts and the embedded empty prompt, by name: guidance can't mix them up.

    Attributes:
        prompt: shape (B, L, K).
        empty: shape (1, L, K); of a negative prompt, if there is one.
    """

    prompt: Tensor
    empty: Tensor


@dataclass(frozen=True)
class Guidance:
    """How strongly prompt and picture act: classifier-free guidance (Ho & Salimans 2022) and its like.

    Attributes:
        text: how far to go from the empty prompt to the prompt, and beyond; 1 is none.
        image: likewise from no picture to the given one (InstructPix2Pix, Brooks et al. 2022, eq. 3); 1 is none.
        control: scale of a ControlNet's residuals; costs no evaluation.
    """

    text: float = 1.0
    image: float = 1.0
    control: float = 1.0

    @property
    def evaluations(self) -> int:
        """Network evaluations a step: with everything; without the prompt; without prompt and picture."""
        if self.image != 1.0:
            return 3
        return 1 if self.text == 1.0 else 2


class Denoiser(nn.Module):
    """(z_t, t, text, condition) to (x0, eps).

    Args:
        unet: its prediction type is the schedule's.
        adapter: brings the condition in.
        schedule: noise levels and prediction type.
    """

    def __init__(self, unet: UNet2DConditionModel, adapter: Adapter, schedule: Schedule) -> None:
        super().__init__()
        self.unet, self.adapter, self.schedule = unet, adapter, schedule

    def forward(
        self, z_t: Tensor, t: Tensor, text: Text, condition: Tensor | None, guidance: Guidance | None = None
    ) -> Prediction:
        """Predict the clean signal and the noise.

        Args:
            z_t: shape (B, C, H, W).
            t: timesteps, int64, shape (B,).
            text: prompts.
            condition: as the adapter takes it, first dimension B.
            guidance: none if left out.

        Raises:
            ValueError: image guidance was asked for, and the adapter can't leave the picture out; or a strength of
                control, and there is no ControlNet.
        """
        guidance = guidance or Guidance()
        output = self.output(z_t, t, text.prompt, condition, guidance.control)
        if guidance.evaluations > 1:
            empty = text.empty.expand(len(z_t), -1, -1)
            picture = self.output(z_t, t, empty, condition, guidance.control)
            output = picture + guidance.text * (output - picture)
            if guidance.evaluations > 2:
                nothing = self.output(z_t, t, empty, self.adapter.absent(condition))
                output = output - picture + nothing + guidance.image * (picture - nothing)
        return self.schedule.to_prediction(output, z_t, t)

    def output(self, z_t: Tensor, t: Tensor, text: Tensor, condition: Tensor | None, control: float = 1.0) -> Tensor:
        """The raw network output, of the schedule's prediction type, in the dtype of z_t.

        Networks in half precision get their inputs in it; the state keeps its own, so that steps don't add up errors.
        """
        own = self.unet.dtype
        condition = None if condition is None else condition.to(own)
        given = self.adapter(z_t.to(own), t, text.to(own), condition).scaled(control)
        result = self.unet(
            given.z_in,
            t,
            encoder_hidden_states=text.to(own),
            down_block_additional_residuals=given.down,
            mid_block_additional_residual=given.mid,
            return_dict=False,
        )[0]
        return result.to(z_t.dtype)


def assemble(
    parts: nn.ModuleDict, base: UNet2DConditionModel | None, schedule: Schedule, once: bool = False
) -> Denoiser:
    """A denoiser from a model's own networks.

    Args:
        parts: ``controlnet`` if it has one, ``unet`` if it doesn't use the base.
        base: the shared network; None where all parts are a model's own.
        schedule: of both.
        once: its ControlNet runs once for all steps of a run.
    """
    unet = parts["unet"] if "unet" in parts else base  # noqa: SIM401 - a ModuleDict has no get
    adapter: Adapter = NoAdapter()
    if "controlnet" in parts:
        adapter = (OnceControlNetAdapter if once else ControlNetAdapter)(parts["controlnet"])
    elif unet.config.in_channels > unet.config.out_channels:
        adapter = ConcatAdapter()
    return Denoiser(unet, adapter, schedule)


def frozen(module: nn.Module) -> nn.Module:
    """The module without gradients, in evaluation mode."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()


@contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """All weights without gradients for a while; gradients still pass through the module to its input."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in module.parameters():
            parameter.requires_grad_(True)


def balance(first: Tensor, second: Tensor, at: Tensor) -> Tensor:
    """What the second loss has to be multiplied by to pull as strongly as the first (Esser et al. 2021, eq. 7).

    Args:
        first, second: losses.
        at: the tensor on which both pull: a weight, or of a batch one row an example. Several processes find the
            whole batch's factor.
    """
    gradients = torch.stack([torch.autograd.grad(loss, at, retain_graph=True)[0].float() for loss in (first, second)])
    shared = distributed.is_available() and distributed.is_initialized()
    if shared and isinstance(at, nn.Parameter):
        distributed.all_reduce(gradients)
    squares = gradients.flatten(1).square().sum(1)
    if shared and not isinstance(at, nn.Parameter):
        distributed.all_reduce(squares)
    own, other = squares.sqrt()
    return (own / (other + 1e-9)).clamp_max(1e4).detach()


def initial_noise(shape: tuple[int, ...], generators: list[torch.Generator]) -> Tensor:
    """One draw for each generator, so that a picture is the same alone or in a batch; (B, *shape) on the CPU."""
    return torch.cat([torch.randn((1, *shape), generator=g) for g in generators])
