"""The schedule: conversions, the DDIM step and the grids, in float64."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from cdd_core.models import scheduler_config
from cdd_core.schedule import CLEAN, PREDICTIONS, Prediction, Schedule, grid

EXACT = {"rtol": 0, "atol": 1e-12}


def schedule_of(prediction: str, zero_snr: bool = True) -> Schedule:
    return Schedule({**scheduler_config(), "prediction_type": prediction, "rescale_betas_zero_snr": zero_snr})


def pair(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Signal and noise, one row for each timestep."""
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, count, 3, 2, 2, generator=generator, dtype=torch.float64)
    return x, eps


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_round_trip_at_every_timestep(prediction: str):
    schedule = schedule_of(prediction, zero_snr=prediction != "epsilon")
    x, eps = pair(schedule.steps)
    t = torch.arange(schedule.steps)
    z_t = schedule.noise(x, eps, t)
    output = schedule.to_output(x, eps, t)
    given = schedule.to_prediction(output, z_t, t)
    # epsilon divides by alpha_t, sample by sigma_t, which costs digits; v divides by nothing.
    divisor = {"v_prediction": 1.0, "epsilon": schedule.alphas[:-1].min(), "sample": schedule.sigmas[:-1].min()}
    worst = 1e-13 / float(divisor[prediction])
    torch.testing.assert_close(given.x0, x, rtol=0, atol=worst)
    torch.testing.assert_close(given.eps, eps, rtol=0, atol=worst)
    torch.testing.assert_close(schedule.to_output(given.x0, given.eps, t), output, rtol=0, atol=worst)


def test_v_is_the_quarter_turn_of_z():
    """Independent of the code's own formulas: with phi = atan2(sigma, alpha), v = dz/dphi."""
    schedule = schedule_of("v_prediction")
    x, eps = pair(schedule.steps)
    t = torch.arange(schedule.steps)
    phi = torch.atan2(schedule.sigmas[:-1], schedule.alphas[:-1]).reshape(-1, 1, 1, 1)
    turned = torch.cos(phi + torch.pi / 2) * x + torch.sin(phi + torch.pi / 2) * eps
    torch.testing.assert_close(schedule.to_output(x, eps, t), turned, **EXACT)


def test_variance_is_preserved_and_noise_only_grows():
    schedule = schedule_of("v_prediction")
    torch.testing.assert_close(schedule.alphas**2 + schedule.sigmas**2, torch.ones(1001, dtype=torch.float64), **EXACT)
    assert (schedule.alphas[:-1].diff() < 0).all()


def test_last_training_step_is_pure_noise():
    schedule = schedule_of("v_prediction")
    x, eps = pair(1)
    last = torch.tensor([schedule.steps - 1])
    assert torch.equal(schedule.noise(x, eps, last), eps)
    assert schedule.snr(last).item() == 0


def test_clean_end_is_the_signal():
    schedule = schedule_of("v_prediction")
    x, eps = pair(1)
    clean = torch.tensor([CLEAN])
    assert torch.equal(schedule.noise(x, eps, clean), x)
    assert torch.equal(schedule.ddim(Prediction(x, eps), clean), x)
    assert schedule.sigmas[0] > 0, "the first training step is not the clean end: they must not be mixed up"


def test_snr_is_the_ratio_of_variances():
    schedule = schedule_of("v_prediction")
    t = torch.tensor([0, 10, 354, 800])
    expected = schedule.alphas[t] ** 2 / schedule.sigmas[t] ** 2
    torch.testing.assert_close(schedule.snr(t), expected, rtol=1e-12, atol=0)


def test_every_row_has_its_own_time():
    schedule = schedule_of("v_prediction")
    x, eps = pair(3)
    t = torch.tensor([999, 17, CLEAN])
    batch = schedule.noise(x, eps, t)
    alone = torch.cat([schedule.noise(x[i : i + 1], eps[i : i + 1], t[i : i + 1]) for i in range(3)])
    assert torch.equal(batch, alone)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_two_ddim_steps_with_one_prediction_are_one(prediction: str):
    """t to s to u with the same (x, eps) is t to u, and the network output at s names that same pair."""
    schedule = schedule_of(prediction)
    x, eps = pair(4)
    constant = Prediction(x, eps)
    s, u = torch.tensor([900, 500, 30, 1]), torch.tensor([700, 0, CLEAN, CLEAN])
    z_s = schedule.ddim(constant, s)
    there = schedule.to_prediction(schedule.to_output(x, eps, s), z_s, s)
    torch.testing.assert_close(schedule.ddim(there, u), schedule.ddim(constant, u), rtol=0, atol=1e-10)


def test_ddim_agrees_with_diffusers():
    schedule = schedule_of("v_prediction")
    stock = DDIMScheduler.from_config(scheduler_config())
    stock.set_timesteps(4)
    generator = torch.Generator().manual_seed(0)
    z, output = torch.randn(2, 1, 4, 8, 8, generator=generator)
    for t, s in zip([999, 749, 499, 249], [749, 499, 249, CLEAN], strict=True):
        ours = schedule.ddim(schedule.to_prediction(output, z, torch.tensor([t])), torch.tensor([s]))
        theirs = stock.step(output, t, z).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 20, 33, 49, 50, 77, 100, 250, 500, 999, 1000])
def test_grid_is_diffusers_trailing_spacing(count: int):
    stock = DDIMScheduler.from_config(scheduler_config(), timestep_spacing="trailing")
    stock.set_timesteps(count)
    assert grid(count, 1000, 1000) == stock.timesteps.tolist()


@pytest.mark.parametrize("stages", [1, 4, 10, 20, 50, 1000])
def test_grid_starts_at_the_last_step_and_falls(stages: int):
    points = set(grid(stages, stages, 1000))
    assert len(points) == stages
    for count in range(1, min(stages, 60) + 1):
        times = grid(count, stages, 1000)
        assert len(times) == count
        assert times[0] == 999
        assert all(t > s for t, s in zip(times, times[1:], strict=False))
        assert times[-1] >= 0
        assert set(times) <= points, "a distilled model is only asked about times it has seen"


@pytest.mark.parametrize("again", [0.0, 0.1, 0.2, 0.37, 0.9])
@pytest.mark.parametrize("stages", [1, 4, 20, 50])
def test_after_the_first_step_a_grid_may_go_on_further_down(stages: int, again: float):
    points = set(grid(stages, stages, 1000))
    for count in range(1, stages + 1):
        evenly, times = grid(count, stages, 1000), grid(count, stages, 1000, again)
        assert len(set(times)) == count
        assert set(times) <= points
        assert times == sorted(times, reverse=True)
        assert times[0] == 999
        assert all(t <= s for t, s in zip(times, evenly, strict=True))
        if count > 1:
            assert times[1] <= max(again * 1000, 1000 * (count - 1) / stages) + 1000 / stages / 2
    assert grid(4, 50, 1000, 0.2) == [999, 199, 139, 59]


def test_grid_of_all_stages_is_all_of_them():
    assert grid(50, 50, 1000) == list(range(999, 0, -20))
    assert grid(1000, 1000, 1000) == list(range(999, -1, -1))


@pytest.mark.parametrize("count", [0, -1, 21])
def test_grid_refuses_what_it_cannot_do(count: int):
    with pytest.raises(ValueError, match="between 1 and 20"):
        grid(count, 20, 1000)


@pytest.mark.parametrize("prediction", [None, "velocity", ""])
def test_a_config_must_state_its_prediction_type(prediction: str | None):
    config = {**scheduler_config(), "prediction_type": prediction}
    with pytest.raises(ValueError, match="prediction_type"):
        Schedule(config)
    del config["prediction_type"]
    with pytest.raises(ValueError, match="prediction_type"):
        Schedule(config)


def test_epsilon_with_zero_terminal_snr_is_refused():
    with pytest.raises(ValueError, match="zero SNR"):
        schedule_of("epsilon", zero_snr=True)
