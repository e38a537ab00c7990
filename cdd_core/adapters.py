"""How a condition reaches the network: one call signature for every way of doing it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn


@dataclass(frozen=True)
class Injection:
    """What a U-Net takes from an adapter.

    Attributes:
        z_in: the network's input, shape (B, C_in, H, W).
        down, mid: residuals for the skip connections and the middle block, or None.
    """

    z_in: Tensor
    down: tuple[Tensor, ...] | None
    mid: Tensor | None

    def scaled(self, factor: float) -> Injection:
        """The same with its residuals made stronger or weaker (ControlNet's conditioning scale).

        Raises:
            ValueError: there are none; the condition is an input of the network itself.
        """
        if factor == 1.0:
            return self
        if self.down is None or self.mid is None:
            raise ValueError("the strength of control belongs to a ControlNet, which this model doesn't have")
        return Injection(self.z_in, tuple(d * factor for d in self.down), self.mid * factor)


class Adapter(nn.Module):
    """Turns (z_t, t, text, condition) into what the U-Net takes.

    ``evaluations`` counts how often its network runs, for the trace.
    """

    evaluations: int = 0

    @abstractmethod
    def forward(self, z_t: Tensor, t: Tensor, text: Tensor, condition: Tensor | None) -> Injection:
        """z_t (B, C, H, W), t (B,), text (B, L, K), condition as the task prepares it, first dimension B."""

    def forget(self, condition: Tensor | None) -> None:  # noqa: B027 - most adapters keep nothing
        """A run with this condition is over."""

    def absent(self, condition: Tensor | None) -> Tensor:
        """What stands for "no picture" in guidance.

        Raises:
            ValueError: this adapter was never trained without one.
        """
        raise ValueError("this model was trained with its picture always there; leave image guidance at 1")


class NoAdapter(Adapter):
    """The text-to-image base: the condition is not looked at."""

    def forward(self, z_t: Tensor, t: Tensor, text: Tensor, condition: Tensor | None) -> Injection:
        return Injection(z_t, None, None)


class ControlNetAdapter(Adapter):
    """A ControlNet (Zhang et al. 2023, arXiv 2302.05543) evaluated at every step.

    Args:
        net: stock diffusers network; with zero convolutions untouched it changes nothing.
    """

    def __init__(self, net: ControlNetModel) -> None:
        super().__init__()
        self.net = net

    def forward(self, z_t: Tensor, t: Tensor, text: Tensor, condition: Tensor | None) -> Injection:
        if condition is None:
            raise ValueError("a ControlNet needs its condition picture; none was given")
        self.evaluations += 1
        down, mid = self.net(z_t, t, text, controlnet_cond=condition, return_dict=False)
        return Injection(z_t, tuple(down), mid)


class OnceControlNetAdapter(ControlNetAdapter):
    """A ControlNet that looks at condition and prompt alone, once for all steps of a run.

    It is trained like that too: in place of z_t and t it always gets zeros. Without gradients its answers, to the
    prompt and to the empty one of guidance, are given again to the same condition and text, until the run is over.
    """

    def __init__(self, net: ControlNetModel) -> None:
        super().__init__(net)
        self._kept: list[tuple[Tensor, Tensor, Injection]] = []

    def forward(self, z_t: Tensor, t: Tensor, text: Tensor, condition: Tensor | None) -> Injection:
        learning = torch.is_grad_enabled()
        for asked, told, answer in () if learning or condition is None else self._kept:
            # By value: half precision and guidance make new tensors of the same content at every step.
            if _same(asked, condition) and _same(told, text):
                return replace(answer, z_in=z_t)
        answer = super().forward(torch.zeros_like(z_t), torch.zeros_like(t), text, condition)
        if not learning:
            self._kept.append((condition, text, answer))
        return replace(answer, z_in=z_t)

    def forget(self, condition: Tensor | None) -> None:
        self._kept = [
            entry for entry in self._kept if condition is None or not _same(entry[0], condition.to(entry[0].dtype))
        ]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


class ConcatAdapter(Adapter):
    """The condition's latents as further input channels, as InstructPix2Pix (Brooks et al. 2022) takes its picture.

    Its network is the U-Net itself, so it costs no evaluation of its own. No picture is a picture of zeros.
    """

    def forward(self, z_t: Tensor, t: Tensor, text: Tensor, condition: Tensor | None) -> Injection:
        if condition is None:
            raise ValueError("this model needs the picture it works on; none was given")
        return Injection(torch.cat([z_t, condition.to(z_t.dtype)], 1), None, None)

    def absent(self, condition: Tensor | None) -> Tensor:
        if condition is None:
            raise ValueError("this model needs the picture it works on; none was given")
        return torch.zeros_like(condition)
