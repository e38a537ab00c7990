"""From noise to picture, one network call a step, handing out the clean prediction each time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from cdd_core.cards import Card
from cdd_core.denoiser import Denoiser, Guidance, Text
from cdd_core.schedule import CLEAN, Prediction, Schedule, grid

Noise = Callable[[], Tensor]  # one draw for every picture of a batch, (B, C, H, W)


@dataclass(frozen=True)
class LatentStep:
    """One step of a trajectory: number i of n, at timestep t, from state z_t to the clean prediction x0."""

    i: int
    n: int
    t: int
    z_t: Tensor
    x0: Tensor


class Sampler(ABC):
    """How a prediction at one timestep becomes the state at the next."""

    @abstractmethod
    def next_state(self, prediction: Prediction, z_t: Tensor, t: int, s: int) -> Tensor:
        """z_s, where s is the next timestep of the run or ``CLEAN``."""


class Ddim(Sampler):
    """Deterministic: the predicted noise is kept (Song et al. 2020; CDD eq. 9)."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def next_state(self, prediction: Prediction, z_t: Tensor, t: int, s: int) -> Tensor:
        return self.schedule.ddim(prediction, torch.full((len(z_t),), s, device=z_t.device))


class Renoise(Sampler):
    """As consistency models sample: fresh noise on the clean prediction (Song et al. 2023, algorithm 1).

    Args:
        schedule: of the model.
        noise: fresh draws.
        scale: of them. A prediction that is a little too smooth lacks what the noise then stands in for: S_noise of
            Karras et al. 2022 (arXiv 2206.00364, section 4), slightly above 1.
    """

    def __init__(self, schedule: Schedule, noise: Noise, scale: float = 1.0) -> None:
        self.schedule, self.noise, self.scale = schedule, noise, scale

    def next_state(self, prediction: Prediction, z_t: Tensor, t: int, s: int) -> Tensor:
        if s == CLEAN:
            return prediction.x0
        eps = self.scale * self.noise().to(z_t)
        return self.schedule.noise(prediction.x0, eps, torch.full((len(z_t),), s, device=z_t.device))


class Multistep(Sampler):
    """A diffusers multistep solver: the rivals that need no training.

    Args:
        scheduler: configured like the model, with trailing spacing; its ``timesteps`` are the run's grid.
        count: steps of the run.
        schedule: the model's.
    """

    def __init__(
        self, scheduler: DPMSolverMultistepScheduler | UniPCMultistepScheduler, count: int, schedule: Schedule
    ) -> None:
        self.schedule, self.scheduler = schedule, scheduler
        scheduler.set_timesteps(count)
        self.timesteps = [int(t) for t in scheduler.timesteps]

    def next_state(self, prediction: Prediction, z_t: Tensor, t: int, s: int) -> Tensor:
        times = torch.full((len(z_t),), t, device=z_t.device)
        output = self.schedule.to_output(prediction.x0, prediction.eps, times)
        return self.scheduler.step(output, t, z_t, return_dict=False)[0]


SOLVERS = {"dpmsolver++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
SAMPLERS = ("ddim", "renoise", *SOLVERS)


def build_sampler(
    name: str, count: int, card: Card, schedule: Schedule, config: dict[str, object], noise: Noise
) -> tuple[Sampler, list[int]]:
    """A sampler by its name, and its grid: the card's, but a multistep solver brings its own.

    Args:
        name: one of :data:`SAMPLERS`.
        count: steps of the run.
        card: of the model; says which noise levels it knows, and how it is re-noised.
        schedule, config: of the model.
        noise: for a sampler that draws some.
    """
    times = grid(count, card.stages, schedule.steps, card.renoise_from if name == "renoise" else 1.0)
    if name in SOLVERS:
        solver = SOLVERS[name].from_config({**config, "timestep_spacing": "trailing"})
        multistep = Multistep(solver, len(times), schedule)
        return multistep, multistep.timesteps
    return (Renoise(schedule, noise, card.noise_scale) if name == "renoise" else Ddim(schedule)), times


@torch.no_grad()
def trajectory(
    denoiser: Denoiser,
    z: Tensor,
    timesteps: list[int],
    sampler: Sampler,
    text: Text,
    condition: Tensor | None,
    guidance: Guidance,
) -> Iterator[LatentStep]:
    """Run a sampler over a grid of timesteps; the last ``x0`` handed out is the result.

    The decorator, not a ``with`` inside, keeps gradients off: each step may run in another thread.

    Args:
        z: pure noise at ``timesteps[0]``, shape (B, C, H, W).
        timesteps: falling, see ``schedule.grid``.
        sampler: holds the randomness of this run, if it has any.
        text, condition, guidance: see :class:`Denoiser`.
    """
    for i, t in enumerate(timesteps):
        prediction = denoiser(z, torch.full((len(z),), t, device=z.device), text, condition, guidance)
        yield LatentStep(i, len(timesteps), t, z, prediction.x0)
        if i + 1 < len(timesteps):
            z = sampler.next_state(prediction, z, t, timesteps[i + 1])
