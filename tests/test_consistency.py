"""The mathematics that distillation rests on, against closed forms, in float64 (docs/maths.md)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from cdd_core.config import CddConfig, LoopConfig
from cdd_core.denoiser import Guidance, Text
from cdd_core.distill.cdd import Batch, Networks, Result, _skipped, cdd_step, distance, signal_weight, stage_pair
from cdd_core.models import scheduler_config
from cdd_core.sampler import Ddim, trajectory
from cdd_core.schedule import CLEAN, Prediction, Schedule, grid, per_sample

MU, TAU = 1.5, 0.6
TEXT = Text(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))


@pytest.fixture
def schedule() -> Schedule:
    return Schedule(scheduler_config())


class GaussianTeacher(nn.Module):
    """The optimal denoiser of data x ~ N(MU, TAU^2), each coordinate on its own; stands in for a Denoiser."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(
        self, z_t: Tensor, t: Tensor, text: Text, condition: Tensor | None, guidance: Guidance | None = None
    ) -> Prediction:
        alpha, sigma = self.schedule.at(t, z_t)
        surplus = (z_t - alpha * MU) / (alpha**2 * TAU**2 + sigma**2)
        return Prediction(MU + alpha * TAU**2 * surplus, sigma * surplus)

    def on_curve(self, u: Tensor, t: int) -> Tensor:
        """The state at t of the PF-ODE's solution that comes from the normal draw u."""
        alpha, sigma = self.schedule.at(torch.full((len(u),), t), u)
        return alpha * MU + (alpha**2 * TAU**2 + sigma**2).sqrt() * u


class Scripted(nn.Module):
    """A network whose output is a fixed random function of (z, t), unlike for different weights."""

    def __init__(self, schedule: Schedule, seed: int) -> None:
        super().__init__()
        self.schedule = schedule
        weights = torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.weights = nn.Parameter(weights)

    def forward(
        self, z_t: Tensor, t: Tensor, text: Text, condition: Tensor | None, guidance: Guidance | None = None
    ) -> Prediction:
        a, b, c, d = self.weights
        time = per_sample(t.to(z_t.dtype) / 1000, z_t)
        return self.schedule.to_prediction(a * torch.sin(b * z_t + c) + d * time, z_t, t)


def draw(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 2, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_teacher_splits_its_input(schedule: Schedule):
    teacher, z = GaussianTeacher(schedule), draw(5)
    t = torch.tensor([0, 10, 400, 900, 999])
    given = teacher(z, t, TEXT, None)
    torch.testing.assert_close(schedule.noise(given.x0, given.eps, t), z, rtol=0, atol=1e-12)


def test_ddim_reaches_the_closed_form_solution(schedule: Schedule):
    """At t = 999 the state is u, so the curve ends in MU + TAU u; the sampler's error falls with its steps."""
    teacher, u = GaussianTeacher(schedule), draw(8)
    errors = []
    for count in (4, 8, 16, 32, 64, 250):
        steps = trajectory(teacher, u, grid(count, 1000, 1000), Ddim(schedule), TEXT, None, Guidance())
        last = list(steps)[-1]
        assert last.i + 1 == last.n == count
        errors.append(float((last.x0 - (MU + TAU * u)).abs().max()))
    assert all(later < 0.6 * before for before, later in zip(errors, errors[1:], strict=False)), errors
    assert errors[-1] < 0.02, errors


def test_every_state_stays_near_its_curve(schedule: Schedule):
    teacher, u = GaussianTeacher(schedule), draw(8)
    for step in trajectory(teacher, u, grid(250, 1000, 1000), Ddim(schedule), TEXT, None, Guidance()):
        torch.testing.assert_close(step.z_t, teacher.on_curve(u, step.t), rtol=0, atol=0.02)


def neighbours(schedule: Schedule) -> tuple[Tensor, Tensor, Prediction, Tensor]:
    """Times t > s over the whole axis, a prediction at t, and where its own DDIM step leads."""
    t = torch.arange(20, 1000, 20)
    s = t - torch.arange(1, len(t) + 1) % 20 - 1
    here = Prediction(draw(len(t), 1), draw(len(t), 2))
    return t, s, here, schedule.ddim(here, s)


def test_noise_consistency_implies_signal_consistency(schedule: Schedule):
    """Appendix B.2: choose the network's output at s so that the noise is the same; the signal follows."""
    _, s, here, z_s = neighbours(schedule)
    alpha_s, sigma_s = schedule.at(s, z_s)
    there = schedule.to_prediction((here.eps - sigma_s * z_s) / alpha_s, z_s, s)
    torch.testing.assert_close(there.eps, here.eps, rtol=0, atol=1e-10)
    torch.testing.assert_close(there.x0, here.x0, rtol=0, atol=1e-10)


def test_signal_consistency_implies_noise_consistency(schedule: Schedule):
    _, s, here, z_s = neighbours(schedule)
    alpha_s, sigma_s = schedule.at(s, z_s)
    there = schedule.to_prediction((alpha_s * z_s - here.x0) / sigma_s, z_s, s)
    torch.testing.assert_close(there.x0, here.x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(there.eps, here.eps, rtol=0, atol=1e-10)


def test_on_a_foreign_step_noise_consistency_says_nothing_of_the_signal(schedule: Schedule):
    """What makes the own step special: from a state that another model reached, the implication breaks."""
    _, s, here, z_s = neighbours(schedule)
    foreign = z_s + 0.1
    alpha_s, sigma_s = schedule.at(s, foreign)
    there = schedule.to_prediction((here.eps - sigma_s * foreign) / alpha_s, foreign, s)
    torch.testing.assert_close(there.eps, here.eps, rtol=0, atol=1e-10)
    assert (there.x0 - here.x0).abs().min() > 0.05


def test_v_cannot_be_consistent(schedule: Schedule):
    """The paper's main text states consistency on the raw output; a constant (x, eps) forbids it."""
    t, s, here, _ = neighbours(schedule)
    change = schedule.to_output(here.x0, here.eps, s) - schedule.to_output(here.x0, here.eps, t)
    assert (change.abs().amax((1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("huber", [0.0, 1e-6])
def test_a_weight_of_snr_makes_an_error_of_the_signal_one_of_the_noise(schedule: Schedule, huber: float):
    """Also where a distance isn't squared: the weight is that of the squared error."""
    generator = torch.Generator().manual_seed(1)
    eps, other, x = (torch.randn(4, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([20, 300, 700, 950])
    z_t = schedule.noise(x, eps, t)
    alpha, sigma = schedule.at(t, z_t)
    there = (z_t - sigma * other) / alpha
    expected = distance(eps, other, huber, torch.ones(4))
    torch.testing.assert_close(distance(x, there, huber, schedule.snr(t)), expected, rtol=1e-4, atol=0)


def test_noise_distance_is_snr_times_signal_distance(schedule: Schedule):
    """d_eps = SNR(s) d_x in value, whatever the network says at s."""
    _, s, here, z_s = neighbours(schedule)
    there = schedule.to_prediction(draw(len(s), 3), z_s, s)
    d_eps = (here.eps - there.eps).square().mean((1, 2, 3))
    d_x = (here.x0 - there.x0).square().mean((1, 2, 3))
    assert d_x.min() > 1e-6
    torch.testing.assert_close(d_eps, schedule.snr(s) * d_x, rtol=1e-9, atol=0)


def recipe(schedule: Schedule, consistency: str) -> CddConfig:
    return CddConfig(LoopConfig(1, 4, 1e-4), ode="student", consistency=consistency, stages=20, shared_time=True)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.97])
def test_cdd_step_weighs_noise_by_snr(schedule: Schedule, time: float):
    """The same identity through the training step itself."""
    networks = Networks(Scripted(schedule, 1), Scripted(schedule, 2), None)
    batch = Batch(draw(4, 4), draw(4, 5), TEXT, None, torch.full((4,), time))
    by_eps = cdd_step(networks, batch, recipe(schedule, "eps"))
    by_x = cdd_step(networks, batch, recipe(schedule, "x"))
    _, s = stage_pair(batch.time, recipe(schedule, "x"), schedule)
    assert s[0] > 0
    torch.testing.assert_close(by_eps.consistency, schedule.snr(s)[0] * by_x.consistency, rtol=1e-9, atol=0)
    torch.testing.assert_close(by_eps.anchor, by_x.anchor)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.97])
def test_gradients_differ_by_the_root_of_both_snrs(schedule: Schedule, time: float):
    """Values differ by SNR(s), gradients by sqrt(SNR(t) SNR(s)): the state at s is detached."""
    batch = Batch(draw(4, 4), draw(4, 5), TEXT, None, torch.full((4,), time))
    gradients = []
    for consistency in ("eps", "x"):
        student = Scripted(schedule, 1)
        config = dataclasses.replace(recipe(schedule, consistency), anchor_weight=0.0)
        cdd_step(Networks(student, Scripted(schedule, 2), None), batch, config).loss.backward()
        gradients.append(student.weights.grad)
    t, s = stage_pair(batch.time, recipe(schedule, "x"), schedule)
    ratio = (schedule.snr(t) * schedule.snr(s)).sqrt()[0]
    torch.testing.assert_close(gradients[0], ratio * gradients[1], rtol=1e-9, atol=0)


def test_only_the_student_is_pulled(schedule: Schedule):
    """The state at s and the target carry no gradient: the loss has the gradient of here = constant."""
    student, target = Scripted(schedule, 1), Scripted(schedule, 2)
    batch = Batch(draw(4, 4), draw(4, 5), TEXT, None, torch.full((4,), 0.5))
    config = dataclasses.replace(recipe(schedule, "x"), anchor_weight=0.0)
    cdd_step(Networks(student, target, None), batch, config).loss.backward()
    assert target.weights.grad is None

    t, s = stage_pair(batch.time, config, schedule)
    z_t = schedule.noise(batch.x, batch.eps, t)
    with torch.no_grad():
        z_s = schedule.ddim(student(z_t, t, TEXT, None), s)
        constant = target(z_s, s, TEXT, None).x0
    again = Scripted(schedule, 1)
    (again(z_t, t, TEXT, None).x0 - constant).square().mean().backward()
    torch.testing.assert_close(student.weights.grad, again.weights.grad)


class Listening(Scripted):
    """Keeps the states that it is shown."""

    def forward(self, z_t: Tensor, t: Tensor, *rest: object) -> Prediction:
        self.seen = z_t, t
        return super().forward(z_t, t, *rest)


@pytest.mark.parametrize("time", [0.1, 0.6, 0.97])
def test_a_teacher_of_more_steps_leads_along_its_curve(schedule: Schedule, time: float):
    """To the state that DDIM reaches by the finer grid, and the nearer to the ODE's solution the more there are."""
    teacher, u, times = GaussianTeacher(schedule), draw(4), torch.full((4,), time, dtype=torch.float64)
    config = dataclasses.replace(recipe(schedule, "x"), ode="teacher", stages=5)
    t, s = stage_pair(times, config, schedule)
    z_t, errors = teacher.on_curve(u, int(t[0])), []
    eps = teacher(z_t, t, TEXT, None)
    for count in (1, 4, 20):
        target = Listening(schedule, 2)
        networks = Networks(Scripted(schedule, 1), target, teacher)
        cdd_step(networks, Batch(eps.x0, eps.eps, TEXT, None, times), dataclasses.replace(config, teacher_steps=count))
        z_s, asked = target.seen
        assert torch.equal(asked, s.clamp_min(0))
        finer = [k for k in grid(5 * count, 5 * count, 1000) if s[0] < k <= t[0]]
        steps = list(trajectory(teacher, z_t, [*finer, max(int(s[0]), 0)], Ddim(schedule), TEXT, None, Guidance()))
        expected = steps[-2].x0 if s[0] == CLEAN else steps[-1].z_t
        torch.testing.assert_close(z_s, expected)
        curve = teacher.on_curve(u, int(s[0])) if s[0] != CLEAN else MU + TAU * u
        errors.append(float((z_s - curve).abs().mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_own_states_are_what_re_noising_meets(schedule: Schedule):
    """They come from what the target draws in one step: the losses are those of that picture, as if it were true."""
    student, target = Scripted(schedule, 1), Scripted(schedule, 2)
    config = dataclasses.replace(recipe(schedule, "x"), anchor_weight=0.5, shared_time=False)
    own, first = torch.tensor([True, False, True, False]), draw(4, 6)
    plain = Batch(draw(4, 4), draw(4, 5), TEXT, None, torch.tensor([0.3, 0.5, 0.7, 0.9]))
    mixed = dataclasses.replace(plain, own=own, first=first)
    with torch.no_grad():
        drawn = next(iter(trajectory(target, first, [999], Ddim(schedule), TEXT, None, Guidance()))).x0
    as_true = dataclasses.replace(plain, x=torch.where(per_sample(own, drawn), drawn, plain.x))
    networks = Networks(student, target, None)
    found, expected = cdd_step(networks, mixed, config), cdd_step(networks, as_true, config)
    torch.testing.assert_close(found.x0, expected.x0)
    torch.testing.assert_close(found.consistency, expected.consistency)
    # The anchor pulls at true states alone, unless own ones are given a weight of theirs.
    errors = (found.x0 - plain.x).square().flatten(1).mean(1)
    torch.testing.assert_close(found.loss, found.consistency + 0.5 * errors[~own].sum() / 4)
    both = cdd_step(networks, mixed, dataclasses.replace(config, own_anchor=0.2))
    torch.testing.assert_close(both.loss - found.loss, 0.2 * errors[own].sum() / 4)
    none = cdd_step(networks, dataclasses.replace(mixed, own=own & False), config)
    torch.testing.assert_close(none.loss, cdd_step(networks, plain, config).loss)


def test_own_states_have_no_true_pair_to_agree_with(schedule: Schedule):
    """Where true pairs lead on, own states are left to the anchor, and to whoever judges the predictions there."""
    networks = Networks(Scripted(schedule, 1), Scripted(schedule, 2), None)
    config = dataclasses.replace(recipe(schedule, "x"), ode="data", anchor_weight=0.5, shared_time=False)
    own = torch.tensor([True, False, False, True])
    given = {"x": draw(4, 4), "eps": draw(4, 5), "time": torch.tensor([0.3, 0.5, 0.7, 0.9]), "first": draw(4, 6)}

    def step(which: torch.Tensor) -> Result:
        rows = {name: value[which] for name, value in given.items()}
        return cdd_step(networks, Batch(text=TEXT, condition=None, own=own[which], **rows), config)

    everywhere = torch.ones(4, dtype=torch.bool)
    assert step(own).loss == 0
    torch.testing.assert_close(step(everywhere).loss, step(~own).loss / 2)
    torch.testing.assert_close(step(everywhere).x0[own], step(own).x0), "judged as any other"


def test_v_prediction_has_the_boundary_built_in(schedule: Schedule):
    """On the clean end the signal is the state itself whatever the network says: no skip connection is needed."""
    z = draw(6)
    given = schedule.to_prediction(1e3 * draw(6, 1), z, torch.full((6,), CLEAN))
    assert torch.equal(given.x0, z)


def test_the_skip_connection_is_the_state_at_time_zero_and_nothing_later(schedule: Schedule):
    config, z, given = (
        dataclasses.replace(recipe(schedule, "x"), skip=True),
        draw(3),
        Prediction(draw(3, 1), draw(3, 2)),
    )
    start = _skipped(given, z, torch.zeros(3, dtype=torch.long), config)
    assert torch.equal(start.x0, z)
    later = _skipped(given, z, torch.tensor([19, 400, 999]), config)
    torch.testing.assert_close(later.x0, given.x0, rtol=0, atol=1e-4)
    assert later.eps is given.eps


def test_last_stage_asks_nobody(schedule: Schedule):
    """In the last stage s is clean and z_s is the target itself, so the target network cannot matter."""
    batch = Batch(draw(4, 4), draw(4, 5), TEXT, None, torch.zeros(4))
    config = dataclasses.replace(recipe(schedule, "x"), ode="data")
    student = Scripted(schedule, 1)
    results = [cdd_step(Networks(student, Scripted(schedule, seed), None), batch, config) for seed in (2, 3)]
    assert results[0].consistency == results[1].consistency
    # Led by the true pair, the clean state is x, and both losses compare with it.
    torch.testing.assert_close(results[0].consistency, results[0].anchor)


@pytest.mark.parametrize("stages", [4, 20, 50, 100, 1000])
def test_training_visits_exactly_the_points_that_sampling_asks_for(schedule: Schedule, stages: int):
    config = dataclasses.replace(recipe(schedule, "x"), stages=stages, shared_time=False)
    time = (torch.arange(4 * stages) + 0.5) / (4 * stages)
    t, s = stage_pair(time, config, schedule)
    points = grid(stages, stages, schedule.steps)
    assert sorted(set(t.tolist()), reverse=True) == points
    assert sorted(set(s.tolist()), reverse=True) == [*points[1:], CLEAN]


def test_only_networks_that_predict_noise_are_weighed_by_snr(schedule: Schedule):
    """They alone err without bound about the signal where there is hardly any."""
    t = torch.tensor([10, 500, 990])
    assert torch.equal(signal_weight(schedule, t, 5.0), torch.ones(3))
    config = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False, "timestep_spacing": "leading"}
    noisy = Schedule({**scheduler_config(), **config})
    assert signal_weight(noisy, t, 5.0).tolist() == pytest.approx(noisy.snr(t).clamp_max(5.0).tolist())
    assert torch.equal(signal_weight(noisy, t, 0.0), torch.ones(3))
