"""Sampling: seeds, steps, gradients and guidance, on tiny networks with random weights."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
from tiny import TINY
from torch import Tensor, nn

from cdd_core.adapters import ConcatAdapter, NoAdapter, OnceControlNetAdapter
from cdd_core.denoiser import Denoiser, Guidance, Text, initial_noise
from cdd_core.inference import SAMPLERS, Plan, as_condition, plan, sample_latents, timesteps
from cdd_core.loading import Model, load
from cdd_core.models import Components, build_controlnet, embed_prompts, scheduler_config
from cdd_core.sampler import Ddim, LatentStep, Renoise, Sampler, trajectory
from cdd_core.schedule import Prediction, Schedule, grid

PROMPTS = ["a lake", "", "night", "a hill by a lake"]
SEEDS = [3, 1, 4, 15]
CLOSE = {"rtol": 0, "atol": 1e-5}


def run(model: Model, conditions: Tensor, rows: list[int], how: Plan) -> list[LatentStep]:
    prompts, seeds = [PROMPTS[row] for row in rows], [SEEDS[row] for row in rows]
    return list(sample_latents(model, conditions[rows], prompts, seeds, how))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_is_the_same_alone_and_in_a_batch(
    undistilled: Model, conditions: Tensor, sampler: str, guidance: float
):
    how = Plan(4, sampler, Guidance(guidance))
    together = run(undistilled, conditions, [0, 1, 2, 3], how)
    for row in (0, 3):
        alone = run(undistilled, conditions, [row], how)
        for step, own in zip(together, alone, strict=True):
            torch.testing.assert_close(step.x0[row : row + 1], own.x0, **CLOSE)
            torch.testing.assert_close(step.z_t[row : row + 1], own.z_t, **CLOSE)


def test_re_noising_goes_on_where_the_card_says(distilled: Model, conditions: Tensor):
    """Other samplers walk down evenly."""
    further = replace(distilled, card=replace(distilled.card, renoise_from=0.2))
    stages = distilled.card.stages
    for sampler, again in (("renoise", 0.2), ("ddim", 1.0)):
        how = Plan(4, sampler, Guidance(1.0))
        times = [step.t for step in run(further, conditions, [0], how)]
        assert times == list(timesteps(further, how)) == grid(4, stages, 1000, again)


def test_re_noising_adds_as_much_as_the_card_says(distilled: Model, conditions: Tensor):
    louder = replace(distilled, card=replace(distilled.card, noise_scale=1.25))
    schedule = distilled.components.schedule
    for sampler, scale in (("renoise", 1.25), ("ddim", 1.0)):
        how = Plan(3, sampler, Guidance(1.0))
        (first, plain, _), (same, loud, _) = (run(model, conditions, [0], how) for model in (distilled, louder))
        assert torch.equal(first.x0, same.x0)
        clean = schedule.noise(first.x0, torch.zeros_like(first.x0), torch.tensor([plain.t]))
        torch.testing.assert_close(loud.z_t - clean, scale * (plain.z_t - clean), **CLOSE)


@pytest.mark.parametrize("sampler", ["ddim", "renoise"])
def test_everything_asked_for_changes_the_picture(distilled: Model, conditions: Tensor, sampler: str):
    """Otherwise the comparisons above and below could not fail."""
    how = Plan(4, sampler, Guidance(1.0))

    def draw(condition: int, prompt: str, seed: int) -> Tensor:
        return list(sample_latents(distilled, conditions[condition : condition + 1], [prompt], [seed], how))[-1].x0

    first = draw(0, "a lake", 0)
    for other in (draw(1, "a lake", 0), draw(0, "night", 0), draw(0, "a lake", 1)):
        assert (first - other).abs().max() > 1e-2
    assert torch.equal(first, draw(0, "a lake", 0))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_interleaved_runs_do_not_touch_each_other(undistilled: Model, conditions: Tensor, sampler: str):
    one, two = Plan(4, sampler, Guidance(1.0)), Plan(3, sampler, Guidance(1.0))
    apart = [run(undistilled, conditions, [0], one), run(undistilled, conditions, [1], two)]
    interleaved: list[list[LatentStep]] = [[], []]
    pair = [
        sample_latents(undistilled, conditions[row : row + 1], [PROMPTS[row]], [SEEDS[row]], how)
        for row, how in enumerate((one, two))
    ]
    for steps in zip_longest(*pair):
        for kept, step in zip(interleaved, steps, strict=True):
            if step is not None:
                kept.append(step)
    for expected, got in zip(apart, interleaved, strict=True):
        assert [step.t for step in expected] == [step.t for step in got]
        assert all(torch.equal(a.x0, b.x0) for a, b in zip(expected, got, strict=True))


def test_sampling_leaves_the_global_random_state_alone(distilled: Model, conditions: Tensor):
    before = torch.random.get_rng_state()
    run(distilled, conditions, [0, 1], Plan(4, "renoise", Guidance(1.0)))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_steps_count_up_and_the_last_is_the_result(undistilled: Model, conditions: Tensor, sampler: str, count: int):
    steps = run(undistilled, conditions, [0], Plan(count, sampler, Guidance(1.0)))
    assert [(step.i, step.n) for step in steps] == [(i, count) for i in range(count)]
    assert steps[0].t == 999
    assert all(a.t > b.t for a, b in zip(steps, steps[1:], strict=False))
    # What it hands out at the end is the network's own prediction there: nothing comes after it.
    last, text = steps[-1], embed_prompts(undistilled.components, [PROMPTS[0]])
    times = torch.full((1,), last.t, device=undistilled.device)
    with torch.no_grad():
        own = undistilled.denoiser(last.z_t, times, text, conditions[:1].to(undistilled.device), Guidance(1.0))
    torch.testing.assert_close(last.x0, own.x0, **CLOSE)


def test_prefixes_of_different_lengths_start_alike(distilled: Model, conditions: Tensor):
    """The first prediction depends on seed, prompt and condition alone, not on how many steps follow."""
    first = [run(distilled, conditions, [0], Plan(count, "ddim", Guidance(1.0)))[0].x0 for count in (1, 2, 4)]
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], first[2])


def test_the_card_chooses(distilled: Model, undistilled: Model):
    assert plan(distilled, 4).sampler == "renoise"
    assert plan(distilled, 2).sampler == "ddim"
    assert plan(distilled, None).steps == distilled.card.steps
    assert plan(undistilled, 2, "unipc", 2.5) == Plan(2, "unipc", Guidance(2.5))
    with pytest.raises(ValueError, match="knows the noise levels of its own grid only"):
        plan(distilled, 2, "unipc")
    with pytest.raises(ValueError, match="between 1 and 20"):
        plan(distilled, 21)
    with pytest.raises(ValueError, match="between 1"):
        plan(distilled, 0)
    with pytest.raises(ValueError, match="euler"):
        plan(distilled, 4, "euler")


def test_renoising_takes_each_rows_own_generator():
    schedule = Schedule(scheduler_config())

    def states(seeds: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        z, sampler = (
            initial_noise((2, 3, 3), generators),
            Renoise(schedule, lambda: initial_noise((2, 3, 3), generators)),
        )
        return sampler.next_state(Prediction(0 * z, 0 * z), z, 999, 499)

    assert torch.equal(states([7, 8])[1:], states([8]))
    assert not torch.equal(states([7]), states([8]))


class Watching(nn.Module):
    """A denoiser that notes whether gradients were on when it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[bool] = []

    def forward(self, z_t: Tensor, t: Tensor, text: Text, condition: object, guidance: Guidance) -> Prediction:
        self.seen.append(torch.is_grad_enabled())
        return Prediction(self.weight * z_t, z_t)


def test_gradients_stay_off_whichever_thread_asks_for_the_next_step():
    denoiser, schedule = Watching(), Schedule(scheduler_config())
    text = Text(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    steps = trajectory(denoiser, torch.ones(1, 2, 2, 2), grid(6, 6, 1000), Ddim(schedule), text, None, Guidance())
    leaked: list[bool] = []
    results: list[LatentStep] = []

    def advance() -> None:
        assert torch.is_grad_enabled()
        results.append(next(steps))
        leaked.append(not torch.is_grad_enabled())

    for turn in range(6):
        if turn % 3 == 0:
            advance()  # now and then the main thread
            continue
        thread = threading.Thread(target=advance)
        thread.start()
        thread.join()
    assert denoiser.seen == [False] * 6
    assert leaked == [False] * 6
    assert torch.is_grad_enabled()
    assert not any(step.x0.requires_grad for step in results)


def test_an_abandoned_run_leaves_gradients_on(distilled: Model, conditions: Tensor):
    how = Plan(4, "ddim", Guidance(1.0))
    steps = sample_latents(distilled, conditions[:1], [""], [0], how)
    next(steps)
    assert torch.is_grad_enabled()
    steps.close()
    assert torch.is_grad_enabled()


class TextReader(nn.Module):
    """Stands in for a U-Net: its output is the mean of the text it is given; counts the rows it evaluates."""

    rows, dtype = 0, torch.float32

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        down_block_additional_residuals: tuple[Tensor, ...] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        return_dict: bool = True,
    ) -> tuple[Tensor]:
        self.rows += len(sample)
        value = encoder_hidden_states.mean((1, 2)).reshape(-1, 1, 1, 1)
        return (torch.zeros_like(sample) + value,)


@pytest.mark.parametrize(("weight", "evaluations"), [(1.0, 1), (3.0, 2), (0.0, 2), (0.5, 2), (-2.0, 2)])
def test_guidance_goes_from_the_empty_prompt_to_the_prompt(weight: float, evaluations: int):
    """Prompts 5 and 7, empty prompt 2: any exchange of the halves gives another number."""
    schedule = Schedule({**scheduler_config(), "prediction_type": "sample"})
    denoiser = Denoiser(TextReader(), NoAdapter(), schedule)
    text = Text(prompt=torch.tensor([5.0, 7.0]).reshape(2, 1, 1), empty=torch.full((1, 1, 1), 2.0))
    z, t = torch.zeros(2, 4, 2, 2), torch.tensor([500, 500])
    given = denoiser(z, t, text, None, Guidance(weight))
    expected = torch.tensor([2 + weight * (5 - 2), 2 + weight * (7 - 2)])
    torch.testing.assert_close(given.x0.mean((1, 2, 3)), expected)
    assert denoiser.unet.rows == 2 * evaluations
    assert Guidance(weight).evaluations == evaluations


class PictureReader(TextReader):
    """Adds ten times the picture's mean to the text's: what the network was given can be read off its output."""

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **rest: object) -> tuple[Tensor]:
        given = super().forward(sample[:, :4], timestep, encoder_hidden_states)[0]
        return (given + 10 * sample[:, 4:].mean((1, 2, 3), keepdim=True),)


@pytest.mark.parametrize(
    ("text", "image", "evaluations"), [(7.5, 1.5, 3), (1.0, 2.0, 3), (3.0, 1.0, 2), (1.0, 1.0, 1), (0.0, 0.0, 3)]
)
def test_guidance_of_text_and_picture_is_instruct_pix2pix(text: float, image: float, evaluations: int):
    """Prompt 5, empty prompt 2, picture 3: eq. 3 of the paper with the three outputs 35, 32 and 2."""
    schedule = Schedule({**scheduler_config(), "prediction_type": "sample"})
    denoiser = Denoiser(PictureReader(), ConcatAdapter(), schedule)
    said = Text(prompt=torch.full((1, 1, 1), 5.0), empty=torch.full((1, 1, 1), 2.0))
    z, picture, t = torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), 3.0), torch.tensor([500])
    guidance = Guidance(text, image)
    given = denoiser(z, t, said, picture, guidance)
    expected = 2 + image * (32 - 2) + text * (35 - 32)
    torch.testing.assert_close(given.x0.mean(), torch.tensor(float(expected)))
    assert denoiser.unet.rows == guidance.evaluations == evaluations


def test_a_controlnet_refuses_image_guidance(distilled: Model, conditions: Tensor):
    with pytest.raises(ValueError, match="leave image guidance at 1"):
        run(distilled, conditions, [0], Plan(1, "ddim", Guidance(1.0, 2.0)))


def test_no_guidance_is_weight_one():
    schedule = Schedule({**scheduler_config(), "prediction_type": "sample"})
    denoiser = Denoiser(TextReader(), NoAdapter(), schedule)
    text = Text(prompt=torch.full((1, 1, 1), 5.0), empty=torch.full((1, 1, 1), 2.0))
    z, t = torch.zeros(1, 4, 2, 2), torch.tensor([500])
    assert torch.equal(denoiser(z, t, text, None).x0, denoiser(z, t, text, None, Guidance(1.0)).x0)


def test_the_trace_counts_what_the_networks_did(distilled: Model, conditions: Tensor):
    adapter, calls = distilled.denoiser.adapter, []
    hook = distilled.denoiser.unet.register_forward_hook(lambda *_: calls.append(1))
    before = adapter.evaluations
    try:
        run(distilled, conditions, [0], Plan(3, "ddim", Guidance(2.0)))
    finally:
        hook.remove()
    assert len(calls) == 3 * Guidance(2.0).evaluations
    assert adapter.evaluations - before == len(calls)


def test_an_adapter_without_its_condition_is_refused(distilled: Model):
    with pytest.raises(ValueError, match="condition"):
        list(sample_latents(distilled, None, [""], [0], Plan(1, "ddim", Guidance(1.0))))


def test_a_sampler_must_say_how_it_steps():
    with pytest.raises(TypeError):
        Sampler()


def test_a_fresh_controlnet_hears_the_prompt_as_its_unet_does(components: Components):
    """diffusers' from_unet copies these weights, but not their number of heads."""
    net = build_controlnet(components.unet, (4, 8, 8))
    text = torch.randn(2, 24, TINY.context, generator=torch.Generator().manual_seed(0))
    assert components.unet.config.addition_embed_type_num_heads == TINY.heads
    assert torch.equal(net.add_embedding(text), components.unet.add_embedding(text))


def test_only_a_controlnet_can_be_weakened(family: Path, device: torch.device, conditions: Tensor):
    editor = load(family, "edit", "undistilled", device)
    given = as_condition(editor, conditions[:1])
    with pytest.raises(ValueError, match="belongs to a ControlNet"):
        list(sample_latents(editor, given, ["a lake"], [0], Plan(1, "ddim", Guidance(control=0.5))))


def test_a_negative_prompt_needs_guidance(undistilled: Model):
    with pytest.raises(ValueError, match="acts through guidance"):
        plan(undistilled, 4, negative="fog")
    assert plan(undistilled, 4, guidance=2.0, negative="fog").negative == "fog"


def test_an_adapter_that_runs_once_runs_once(distilled: Model, conditions: Tensor):
    """And what it says depends on condition and prompt, never on the state or the time."""
    net = distilled.denoiser.adapter.net
    denoiser = Denoiser(distilled.denoiser.unet, OnceControlNetAdapter(net), distilled.components.schedule)
    once = replace(distilled, denoiser=denoiser)
    given = conditions[:2].to(once.device)
    first = run(once, conditions, [0, 1], Plan(4, "ddim", Guidance()))
    assert denoiser.adapter.evaluations == 1
    again = run(once, conditions, [0, 1], Plan(4, "ddim", Guidance()))
    assert denoiser.adapter.evaluations == 2, "another run asks anew"
    assert torch.equal(first[-1].x0, again[-1].x0)
    run(once, conditions, [0, 1], Plan(4, "ddim", Guidance(text=2.0)))
    assert denoiser.adapter.evaluations == 4, "guidance has a second text, heard once likewise"
    parts = [sample_latents(once, conditions[[k]], ["a lake"], [k], Plan(4, "ddim", Guidance())) for k in range(3)]
    assert len(list(zip(*parts, strict=True))) == 4
    assert denoiser.adapter.evaluations == 7, "three runs side by side, each once"
    half = copy.deepcopy(denoiser).to(torch.bfloat16)
    half.adapter.evaluations = 0
    run(replace(distilled, denoiser=half), conditions, [0, 1], Plan(4, "ddim", Guidance()))
    assert half.adapter.evaluations == 1, "whatever the precision"
    other = run(once, conditions, [2, 3], Plan(4, "ddim", Guidance()))
    assert not torch.equal(first[-1].x0, other[-1].x0)
    text = embed_prompts(once.components, PROMPTS[:2]).prompt
    with torch.no_grad():
        answers = [
            denoiser.adapter(torch.randn(2, 4, 8, 8).to(given), torch.full((2,), t), text, given) for t in (999, 5)
        ]
        assert torch.equal(answers[0].mid, answers[1].mid)
    count = denoiser.adapter.evaluations
    for _ in range(2):
        denoiser.adapter(torch.zeros(2, 4, 8, 8).to(given), torch.zeros(2), text, given)
    assert denoiser.adapter.evaluations == count + 2, "with gradients nothing is kept"
