"""Time of one picture, always as a ratio to a rival measured in the same run.

    python -m benchmarks.speed --out docs/benchmarks.json

Contestants take turns, so that whatever else the machine does falls on all of them alike; the figure of each is its
median. ``floor`` is the sum of the network calls that a picture cannot do without: text encoder, four times
ControlNet and U-Net, one decoding.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from diffusers import ControlNetModel, LCMScheduler, StableDiffusionControlNetPipeline
from torch import Tensor

from benchmarks.report import publish
from cdd_core.data.latents import decode
from cdd_core.inference import Plan, as_condition, plan, sample, sample_latents
from cdd_core.loading import Model, load
from cdd_core.models import embed_prompts
from cdd_core.schedule import grid
from cdd_core.uploads import prepare

PROMPT = "a snowy landscape at sunset with a lake"


@dataclass(frozen=True)
class Options:
    """What to time."""

    family: Path = Path("checkpoints/pocket")
    image: Path = Path("assets/examples/peaks.png")
    rounds: int = 15
    device: str = "cpu"
    out: Path | None = None


def draw(model: Model, condition: Tensor, how: Plan, small: bool = False) -> Tensor:
    """One picture without the intermediate ones, from the prompt on; by the small decoder if asked to."""
    for step in sample_latents(model, condition, [PROMPT], [0], how):
        last = step.x0
    return decode(model.components.preview if small else model.components.vae, last)


@torch.no_grad()
def floor(model: Model, condition: Tensor, steps: int) -> Tensor:
    """The network calls alone, at the same shapes."""
    text = embed_prompts(model.components, [PROMPT]).prompt
    side = model.components.unet.config.sample_size
    z = torch.zeros(1, 4, side, side, device=model.device)
    for t in grid(steps, model.card.stages, model.components.schedule.steps):
        output = model.denoiser.output(z, torch.tensor([t], device=model.device), text, condition)
    return decode(model.components.vae, output)


def pipeline(family: Path, model: Model) -> StableDiffusionControlNetPipeline:
    """diffusers' own pipeline on the same exported weights."""
    folder = family / "depth" / "distilled"
    parts = {"controlnet": ControlNetModel.from_pretrained(folder / "controlnet", torch_dtype=torch.float32)}
    built = StableDiffusionControlNetPipeline.from_pretrained(
        family / "base", torch_dtype=torch.float32, safety_checker=None, requires_safety_checker=False, **parts
    )
    built.unet = model.denoiser.unet  # channels last, as ours; so are the others
    built.controlnet.to(memory_format=torch.channels_last)
    built.vae.to(memory_format=torch.channels_last)
    built.scheduler = LCMScheduler.from_config(built.scheduler.config)
    built.set_progress_bar_config(disable=True)
    return built.to(model.device)


def race(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taking turns, after one warm-up lap."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for lap in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if lap:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main(options: Options) -> dict[str, object]:
    """Run the race, print it, and keep it if asked to."""
    student = load(options.family, "depth", "distilled", options.device)
    teacher = load(options.family, "depth", "undistilled", options.device, shared=student.components)
    condition = as_condition(student, prepare(student, options.image))
    stock = pipeline(options.family, student)
    times = grid(4, student.card.stages, student.components.schedule.steps)
    medians = race(
        {
            "floor: network calls of 4 steps": lambda: floor(student, condition, 4),
            "distilled, 4 steps": lambda: draw(student, condition, plan(student, 4)),
            "distilled, 1 step": lambda: draw(student, condition, plan(student, 1)),
            "distilled, 4 steps, every step decoded": lambda: list(sample(student, options.image, PROMPT, 4)),
            "diffusers pipeline, LCMScheduler, 4 steps": lambda: stock(
                PROMPT, condition, timesteps=times, guidance_scale=1.0, output_type="pt"
            ),
            "undistilled, 50 steps": lambda: draw(teacher, condition, plan(teacher, 50)),
        },
        options.rounds,
    )
    base = medians["distilled, 4 steps"]
    report: dict[str, object] = {
        "device": options.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": options.rounds,
        "seconds": medians,
        "ratio_to_distilled_4": {name: value / base for name, value in medians.items()},
        "sampler_overhead": base / medians["floor: network calls of 4 steps"] - 1,
    }
    for name, value in medians.items():
        print(f"{name:45s} {value * 1000:8.1f} ms  x {value / base:.3f}")
    print(f"sampler overhead over its network calls: {100 * report['sampler_overhead']:.1f} %")
    return publish(report, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
