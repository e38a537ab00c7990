"""An adversarial loss on clean latents: what no average can have, sharpness, is asked for by a discriminator.

It sees latents together with their condition and prompt, so a likely picture of something else is a fake too
(conditional hinge loss: Lim & Ye 2017, Miyato & Koyama 2018; as an addition to distillation: ADD, Sauer et al. 2023,
arXiv 2311.17042). Both sides get the same noise first, so that it can't decide by details finer than its data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdd_core.denoiser import constant

WIDTHS = (64, 96, 128)
SLOPE = 0.2


class Discriminator(nn.Module):
    """Real latents or a student's, patch by patch.

    Args:
        channels: of the latents.
        condition_channels: of the condition, as the adapter takes it.
        context: width of the embedded prompts.
        widths: of the layers, each at half the resolution of the one before.
    """

    def __init__(self, channels: int, condition_channels: int, context: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(channels + condition_channels, widths[0], 3, padding=1),
            nn.LeakyReLU(SLOPE),
        ]
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [
                nn.Conv2d(before, before, 3, padding=1),
                nn.LeakyReLU(SLOPE),
                nn.Conv2d(before, after, 4, stride=2, padding=1),
                nn.LeakyReLU(SLOPE),
            ]
        self.body = nn.Sequential(*layers)
        self.verdict = nn.Conv2d(widths[-1], 1, 1)
        self.heard = nn.Linear(context, widths[-1])
        # As usual, what comes in would fade by a third a layer, and so would what is learnt.
        for layer in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight, SLOPE, nonlinearity="leaky_relu")

    def forward(self, latents: Tensor, text: Tensor, condition: Tensor | None) -> Tensor:
        """Above zero where it looks real.

        Args:
            latents: (B, C, H, W).
            text: embedded prompts, (B, L, K).
            condition: as the adapter takes it, first dimension B; brought to the latents' size.

        Returns:
            shape (B, 1, H', W').
        """
        given = [latents]
        if condition is not None:
            given.append(F.adaptive_avg_pool2d(condition, latents.shape[-2:]).to(latents.dtype))
        features = self.body(torch.cat(given, 1))
        words = self.heard(text.mean(1)).to(features.dtype)
        match = torch.einsum("bchw,bc->bhw", features, words)[:, None] / features.shape[1] ** 0.5
        return self.verdict(features) + match


@dataclass(frozen=True)
class Adversarial:
    """Both losses, each a mean over the batch: the student's, and the discriminator's own."""

    student: Tensor
    discriminator: Tensor


def adversarial_step(
    discriminator: Discriminator, x0: Tensor, x: Tensor, text: Tensor, condition: Tensor | None, noise: Tensor
) -> Adversarial:
    """Gradients reach the student through ``x0`` alone, and the discriminator through its own loss alone.

    Args:
        discriminator: learns to tell ``x0`` from ``x``.
        x0: the student's clean predictions, (B, C, H, W), with gradient.
        x: clean latents of the same conditions and prompts.
        text, condition: see :class:`Discriminator`.
        noise: that both sides get first, (B, C, H, W).
    """
    with constant(discriminator):
        student = -discriminator(x0 + noise, text, condition).mean()
    real = discriminator(x + noise, text, condition)
    fake = discriminator(x0.detach() + noise, text, condition)
    return Adversarial(student, hinge(real, fake))


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """A discriminator's loss: verdicts on what is real should be above 1, those on what isn't below -1."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
