"""Distribution matching against closed forms: whose gradient goes where, and where the student ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cdd_core.denoiser import Guidance, Text
from cdd_core.distill.matching import Matching, matching_step
from cdd_core.models import scheduler_config
from cdd_core.schedule import Prediction, Schedule

TEXT = Text(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
GOAL, SPREAD = 1.5, 0.6


class Normal(nn.Module):
    """The optimal denoiser of N(mean, spread^2), each coordinate on its own; its two numbers can be learnt."""

    def __init__(self, mean: float, spread: float) -> None:
        super().__init__()
        self.schedule = Schedule(scheduler_config())
        self.mean, self.log_spread = (
            nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (mean, torch.tensor(spread).log().item())
        )

    def output(self, z: Tensor, t: Tensor, text: Tensor, condition: Tensor | None) -> Tensor:
        alpha, sigma = self.schedule.at(t, z)
        variance = (2 * self.log_spread).exp()
        surplus = (z - alpha * self.mean) / (alpha**2 * variance + sigma**2)
        return self.schedule.to_output(self.mean + alpha * variance * surplus, sigma * surplus, t)

    def forward(
        self, z: Tensor, t: Tensor, text: Text, condition: Tensor | None, guidance: Guidance | None = None
    ) -> Prediction:
        return self.schedule.to_prediction(self.output(z, t, text.prompt, condition), z, t)


def step(x0: Tensor, critic: Normal, teacher: Normal, seed: int = 0) -> Matching:
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    time = torch.rand(len(x0), generator=generator, dtype=torch.float64)
    return matching_step(x0, critic, teacher, TEXT, None, eps, time, Guidance())


def drawn(rows: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gradients_go_where_they_belong():
    critic, teacher = Normal(0.0, 1.0), Normal(GOAL, SPREAD)
    x0 = drawn(8).requires_grad_(True)
    losses = step(x0, critic, teacher)
    losses.student.backward(retain_graph=True)
    assert x0.grad.abs().max() > 0
    assert all(p.grad is None for p in [*critic.parameters(), *teacher.parameters()])
    x0.grad = None
    losses.critic.backward()
    assert x0.grad is None
    assert all(p.grad is not None for p in critic.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_a_student_like_its_teacher_is_left_alone():
    x0 = (GOAL + SPREAD * drawn(8)).requires_grad_(True)
    step(x0, Normal(GOAL, SPREAD), Normal(GOAL, SPREAD)).student.backward()
    assert x0.grad.abs().max() < 1e-12


@pytest.mark.parametrize(("mean", "sign"), [(GOAL + 1, 1), (GOAL - 1, -1)])
def test_the_push_is_towards_the_teachers_distribution(mean: float, sign: int):
    x0 = (mean + SPREAD * drawn(64)).requires_grad_(True)
    step(x0, Normal(mean, SPREAD), Normal(GOAL, SPREAD)).student.backward()
    assert torch.all(sign * x0.grad > 0), "every coordinate is moved the same way when only the means differ"


def test_a_shift_and_a_scale_are_learnt():
    """A one-step student a + b eps and its critic, trained side by side, end at the teacher's mean and spread."""
    teacher, critic = Normal(GOAL, SPREAD), Normal(0.0, 1.5)
    student = nn.Parameter(torch.tensor([0.0, 1.5], dtype=torch.float64))
    optimizer = torch.optim.Adam([student, *critic.parameters()], lr=0.02)
    for k in range(600):
        x0 = student[0] + student[1] * drawn(64, seed=1000 + k)
        losses = step(x0, critic, teacher, seed=k)
        optimizer.zero_grad()
        (losses.student + losses.critic).backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - k / 600)
    assert student[0].item() == pytest.approx(GOAL, abs=0.1)
    assert student[1].abs().item() == pytest.approx(SPREAD, abs=0.1)
