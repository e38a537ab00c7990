"""Conditional diffusion distillation: one training step, Algorithm 1 of the CDD appendix with its typos put right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cdd_core.config import CddConfig
from cdd_core.denoiser import Denoiser, Guidance, Text
from cdd_core.schedule import CLEAN, Prediction, Schedule, grid, per_sample

SIGMA_DATA = 0.5  # eq. 18


@dataclass(frozen=True)
class Batch:
    """Examples of one step.

    Attributes:
        x, eps: clean latents and noise, (B, C, H, W).
        text: prompts.
        condition: as the student's adapter takes it.
        time: in [0, 1), (B,).
        teacher_condition: as the teacher's takes it, where that differs.
        own: which of them start from the student's own pictures, bool, (B,); None is none.
        first: the noise that those are drawn from, as eps.
    """

    x: Tensor
    eps: Tensor
    text: Text
    condition: Tensor | None
    time: Tensor
    teacher_condition: Tensor | None = None
    own: Tensor | None = None
    first: Tensor | None = None


@dataclass(frozen=True)
class Networks:
    """Who takes part. They differ only in their weights.

    Attributes:
        student: w_theta, learns.
        target: w_theta-minus, follows the student's average.
        teacher: a frozen undistilled model, where the recipe asks for one.
    """

    student: Denoiser
    target: Denoiser
    teacher: Denoiser | None


@dataclass(frozen=True)
class Result:
    """The loss and its two parts, each a mean over the batch, and the student's clean predictions."""

    loss: Tensor
    consistency: Tensor
    anchor: Tensor
    x0: Tensor


def cdd_step(networks: Networks, batch: Batch, config: CddConfig) -> Result:
    """The losses of Algorithm 1.

    What differs from the printed algorithm, and why, is in docs/maths.md: the target looks at its own time s, the
    state z_s and the target carry no gradient, and the student's single pass serves both the ODE step and the loss.
    """
    schedule = networks.student.schedule
    # t ~ [dt, T] on the grid of N stages, s <- t - dt
    t, s = stage_pair(batch.time, config, schedule)
    # z_t <- alpha_t x + sigma_t eps
    z_t = schedule.noise(_pictures(networks, batch, config), batch.eps, t)
    # x_t, eps_t <- signal and noise prediction of the student (eq. 8)
    here = _skipped(networks.student(z_t, t, batch.text, batch.condition), z_t, t, config)
    weight = signal_weight(schedule, t, config.snr_clip)
    anchor = distance(here.x0, batch.x, 0.0, weight)
    pull = config.anchor_weight * anchor
    if batch.own is not None:
        share = torch.where(batch.own, config.own_anchor, config.anchor_weight)
        pull = distance(here.x0, batch.x, 0.0, share * weight)
    if config.consistency_weight == 0:
        return Result(pull, torch.zeros_like(anchor), anchor.detach(), here.x0)
    # z_s <- alpha_s x_t + sigma_s eps_t (eq. 9), by whom the recipe says
    z_s = _led(networks, batch, here, z_t, (t, s), config).detach()
    # eps_s (or x_s) <- the target at its own time s
    with torch.no_grad():
        there = networks.target(z_s, s.clamp_min(0), batch.text, batch.condition)
        there = _skipped(there, z_s, s.clamp_min(0), config)
    # L <- d(eps_t, eps_s) + lambda d_x(x, x_t)
    counted = torch.ones_like(weight)
    if batch.own is not None and config.ode == "data":  # no true pair belongs to a student's own picture
        counted = (~batch.own).to(weight)
    if config.consistency == "eps":
        consistency = distance(here.eps, there.eps, config.huber, counted)
    else:
        # On a clean state the signal is the state itself: the boundary needs no skip connection.
        known = torch.where(per_sample(s == CLEAN, z_s), z_s, there.x0)
        consistency = distance(here.x0, known, config.huber, weight * counted)
    loss = config.consistency_weight * consistency + pull
    return Result(loss, consistency.detach(), anchor.detach(), here.x0)


def stage_pair(time: Tensor, config: CddConfig, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Neighbouring points t > s of the sampler's own grid for times in [0, 1), int64, shape (B,).

    Signals end on the clean state. Noise has no meaning there, so with eps-consistency the last s is the first
    training timestep instead.
    """
    points = _points(config.stages, schedule, time.device)
    lower = (time * config.stages).long()
    t, s = points[lower + 1], points[lower]
    return t, s.clamp_min(0) if config.consistency == "eps" else s


def _points(count: int, schedule: Schedule, device: torch.device) -> Tensor:
    """``CLEAN`` and the grid's timesteps, rising, int64, (count + 1,)."""
    return torch.tensor([CLEAN, *reversed(grid(count, count, schedule.steps))], device=device)


def _pictures(networks: Networks, batch: Batch, config: CddConfig) -> Tensor:
    """The true pictures, and in place of some what the target draws in one step, (B, C, H, W)."""
    if batch.own is None or batch.first is None:
        return batch.x
    last = torch.full_like(batch.own, networks.target.schedule.steps - 1, dtype=torch.long)
    with torch.no_grad():
        drawn = networks.target(batch.first, last, batch.text, batch.condition)
        drawn = _skipped(drawn, batch.first, last, config).x0
    return torch.where(per_sample(batch.own, batch.x), drawn, batch.x)


def _led(
    networks: Networks, batch: Batch, here: Prediction, z_t: Tensor, pair: tuple[Tensor, Tensor], config: CddConfig
) -> Tensor:
    """z_s, where DDIM leads by whose (x, eps): the adapted student's own, the frozen teacher's, or the true pair."""
    schedule, (t, s) = networks.student.schedule, pair
    if config.ode == "student":
        return schedule.ddim(here, s)
    if config.ode == "data":
        return schedule.ddim(Prediction(batch.x, batch.eps), s)
    if networks.teacher is None:
        raise ValueError("ode='teacher' needs the undistilled adapter; train it first (train --stage depth)")
    condition = batch.condition if batch.teacher_condition is None else batch.teacher_condition
    fine = _points(config.stages * config.teacher_steps, schedule, t.device)  # every teacher_steps-th is a stage's
    at, z = torch.searchsorted(fine, t), z_t
    with torch.no_grad():
        for step in range(config.teacher_steps):
            prediction = networks.teacher(z, fine[at - step], batch.text, condition, baked_in(config))
            z = schedule.ddim(prediction, torch.maximum(fine[at - step - 1], s))  # s may be 0 instead of CLEAN
    return z


def baked_in(config: CddConfig) -> Guidance:
    """The teacher's guidance, which the student then has of its own."""
    return Guidance(text=config.guidance, image=config.image_guidance)


def _skipped(prediction: Prediction, z_t: Tensor, t: Tensor, config: CddConfig) -> Prediction:
    """Eq. 17 on the signal, if the recipe wants it: c_skip z_t + c_out x0, with eq. 18 as consistency models have it.

    Time is ten times the timestep, as in the public code; from t = 19 on, c_skip is below 1e-5.
    """
    if not config.skip:
        return prediction
    time = per_sample(10.0 * t, z_t).to(z_t)
    c_skip = SIGMA_DATA**2 / (time.square() + SIGMA_DATA**2)
    c_out = time / (time.square() + SIGMA_DATA**2).sqrt()
    return Prediction(c_skip * z_t + c_out * prediction.x0, prediction.eps)


def signal_weight(schedule: Schedule, t: Tensor, clip: float) -> Tensor:
    """How much a squared error of the signal at t counts, (B,): 1, or min(SNR(t), clip) where noise is predicted.

    A noise-predicting network turns its error into one of the signal by 1 / sqrt(SNR), which at the noisiest steps
    would drown everything else (min-SNR weighting, Hang et al. 2023, arXiv 2303.09556). Others do not, and there the
    weight would leave next to nothing of these steps. A clip of 0 is none.
    """
    if clip == 0 or schedule.prediction_type != "epsilon":
        return torch.ones(len(t), device=t.device)
    return schedule.snr(t).clamp_max(clip).float()


def distance(a: Tensor, b: Tensor, huber: float, weight: Tensor) -> Tensor:
    """Mean squared error, or with ``huber`` > 0 the pseudo-Huber distance of each sample (Song & Dhariwal 2023).

    Args:
        a, b: shape (B, ...).
        huber: c of sqrt(w |a - b|^2 / D + c^2) - c, in units of one latent where w is 1.
        weight: w, of each sample's squared error, shape (B,).
    """
    mean_square = weight * (a - b).square().flatten(1).mean(1)
    each = mean_square if huber == 0 else (mean_square + huber**2).sqrt() - huber
    return each.mean()
