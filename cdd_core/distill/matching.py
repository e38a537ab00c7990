"""Distribution matching (DMD: Yin et al. 2024, arXiv 2311.18828): a student's pictures should be likely, not average.

Consistency asks that every guess agrees with the next, cleaner one; where the condition leaves much open, early guesses
stay blurred. Here a critic learns to denoise what the student draws. Where it and the frozen teacher disagree on a
noised student picture, the difference of their clean predictions is, up to scale, the difference of the two
distributions' scores: the way to where the teacher's distribution is denser than the student's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cdd_core.denoiser import Denoiser, Guidance, Text

SMALLEST_SCALE = 1e-2  # in units of one latent; a picture that the teacher leaves as it is should not be pushed hard
TIMES = (0.02, 0.98)  # as DMD2: at the very ends a prediction says nothing, or only what it was given


@dataclass(frozen=True)
class Matching:
    """Both losses, each a mean over the batch: the student's, and the critic's own denoising loss."""

    student: Tensor
    critic: Tensor


def matching_step(
    x0: Tensor,
    critic: Denoiser,
    teacher: Denoiser,
    text: Text,
    condition: Tensor | None,
    eps: Tensor,
    time: Tensor,
    guidance: Guidance,
) -> Matching:
    """Gradients reach the student through ``x0`` alone, and the critic through its own loss alone.

    Args:
        x0: the student's clean predictions, (B, C, H, W), with gradient.
        critic: learns to denoise them; one pass serves its loss and the student's.
        teacher: frozen; its distribution is the goal.
        text, condition: what was asked for.
        eps, time: noise (B, C, H, W) and time in [0, 1) (B,) at which the two are compared.
        guidance: of the teacher; it moves the goal, so that the student has it baked in.
    """
    schedule, drawn = teacher.schedule, x0.detach()
    tau = ((TIMES[0] + (TIMES[1] - TIMES[0]) * time) * schedule.steps).long()
    z = schedule.noise(drawn, eps, tau)
    output = critic.output(z, tau, text.prompt, condition)
    learnt = F.mse_loss(output.float(), schedule.to_output(drawn, eps, tau))
    with torch.no_grad():
        fake = schedule.to_prediction(output, z, tau).x0
        real = teacher(z, tau, text, condition, guidance).x0
        scale = (drawn - real).abs().mean((1, 2, 3), keepdim=True).clamp_min(SMALLEST_SCALE)
        goal = drawn - (fake - real) / scale
    return Matching(0.5 * F.mse_loss(x0, goal), learnt)
