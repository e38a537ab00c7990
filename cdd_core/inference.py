"""Sample from a loaded model: what the command line, the app and the evaluation call."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cdd_core.data.latents import decode, encode
from cdd_core.denoiser import Guidance, initial_noise
from cdd_core.estimator import DepthEstimator
from cdd_core.images import to_pil
from cdd_core.loading import Model
from cdd_core.models import embed_prompts, tokenize
from cdd_core.sampler import SAMPLERS, SOLVERS, LatentStep, Noise, Sampler, build_sampler, trajectory
from cdd_core.tiles import Tiling
from cdd_core.uploads import prepare

MAX_STEPS = 250
TOGETHER = 2**20  # pixels of squares drawn in one batch
PREVIEWS = ("full", "fast", "none")


@dataclass(frozen=True)
class Step:
    """One step of a run, decoded.

    Attributes:
        i, n, t: number i of n, at timestep t.
        nfe: network evaluations so far.
        image: the clean prediction; None where it isn't to be seen.
        sampling: seconds that sampling took so far, the condition's encoding with it.
        decoding: seconds that this picture's decoding took; of a run without previews only the last one is paid.
    """

    i: int
    n: int
    t: int
    nfe: int
    image: Image.Image | None
    sampling: float = 0.0
    decoding: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How to sample; :func:`plan` fills what is left out from the model's card.

    Attributes:
        steps, sampler, guidance: see there.
        negative: what guidance leads away from, instead of from no prompt at all.
    """

    steps: int
    sampler: str
    guidance: Guidance
    negative: str = ""


def plan(
    model: Model,
    steps: int | None,
    sampler: str | None = None,
    guidance: float | None = None,
    image_guidance: float | None = None,
    control: float = 1.0,
    negative: str = "",
) -> Plan:
    """A run for this model; what is None comes from its card.

    Raises:
        ValueError: a number or a name that the model can't do, or a negative prompt that nothing would listen to.
    """
    steps = model.card.steps if steps is None else steps
    most = min(MAX_STEPS, model.card.stages)
    if not 1 <= steps <= most:
        raise ValueError(f"steps must be between 1 and {most} for this model, not {steps}")
    sampler = sampler or model.card.sampler_for(steps)
    if sampler not in SAMPLERS:
        raise ValueError(f"the sampler is one of {', '.join(SAMPLERS)}, not {sampler!r}")
    own = model.card
    if sampler in SOLVERS and own.variant == "distilled":
        raise ValueError(
            f"a distilled model knows the noise levels of its own grid only; {sampler} would ask for others"
        )
    text = own.guidance if guidance is None else guidance
    image = own.image_guidance if image_guidance is None else image_guidance
    if negative and text == 1.0:
        raise ValueError("a negative prompt acts through guidance; it needs a text guidance other than 1")
    return Plan(steps, sampler, Guidance(text=text, image=image, control=control), negative)


def sample_latents(
    model: Model, condition: Tensor | None, prompts: list[str], seeds: list[int], how: Plan
) -> Iterator[LatentStep]:
    """Run a batch; picture k depends on (condition k, prompt k, seed k) alone.

    Args:
        condition: as the adapter takes it, a picture (B, 3, S, S) or its latents (B, C, H, W).
        prompts, seeds: B of each.
        how: see :func:`plan`.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    side = model.components.unet.config.sample_size if condition is None else model.latents_side(condition)
    shape = (model.components.unet.config.out_channels, side, side)
    return _sample_from(model, condition, prompts, lambda: initial_noise(shape, generators), how)


def _sample_from(
    model: Model, condition: Tensor | None, prompts: list[str], noise: Noise, how: Plan
) -> Iterator[LatentStep]:
    z = noise().to(model.device)
    sampler, times = _sampler(model, how, noise)
    text = embed_prompts(model.components, prompts, how.negative)
    condition = None if condition is None else condition.to(model.device)
    try:
        yield from trajectory(model.denoiser, z, times, sampler, text, condition, how.guidance)
    finally:
        model.denoiser.adapter.forget(condition)


def _sampler(model: Model, how: Plan, noise: Noise) -> tuple[Sampler, list[int]]:
    return build_sampler(
        how.sampler, how.steps, model.card, model.components.schedule, model.components.scheduler, noise
    )


def timesteps(model: Model, how: Plan) -> tuple[int, ...]:
    """The timesteps of a run, before it is drawn."""
    return tuple(_sampler(model, how, lambda: torch.empty(0))[1])  # a sampler that is never run draws none


class PromptError(ValueError):
    """A prompt that asks for nothing the model knows. The message is one sentence for the person who wrote it."""


def check_prompt(model: Model, prompt: str) -> None:
    """Refuse what would silently change nothing.

    Raises:
        PromptError: the model knows a list of words, and none of them is in the prompt, or in as much as it reads.
    """
    known, tokenizer = model.card.words, model.components.tokenizer
    if not known:
        return
    read = tokenizer.decode(tokenize(tokenizer, [prompt])[0], skip_special_tokens=True)
    asked, heard = (set(re.findall(r"[a-z]+", text.lower())) & set(known) for text in (prompt, read))
    if not asked:
        raise PromptError(
            f"This model understands only changes it was trained on; use one of these words: {', '.join(known)}."
        )
    if not heard:
        raise PromptError(f"This model reads no further than “{read.strip()}”; say what to change in fewer words.")


def as_condition(model: Model, pixels: Tensor) -> Tensor:
    """What the adapter takes, from pixels in [0, 1] (B, 3, S, S): the pixels themselves, or their latents.

    Latents beside z_t are not scaled to unit variance, as InstructPix2Pix has it.
    """
    pixels = pixels.to(model.device)
    if model.card.adapter != "concat":
        return pixels
    vae = model.components.vae
    return encode(vae, (pixels * 2 - 1).to(vae.dtype)).float() / vae.config.scaling_factor


def sample(
    model: Model,
    image: str | Path | Image.Image | np.ndarray,
    prompt: str = "",
    steps: int | None = None,
    seed: int = 0,
    *,
    guidance: float | None = None,
    sampler: str | None = None,
    image_guidance: float | None = None,
    control: float = 1.0,
    negative: str = "",
    invert: bool = False,
    degradation: float = 0.0,
    estimator: DepthEstimator | None = None,
    size: int | None = None,
    largest: int | None = None,
    lines: bool = False,
    preview: str = "full",
) -> Iterator[Step]:
    """Draw one picture, handing out the clean prediction of every step; the last is the result.

    Args:
        model: see :func:`load`.
        image: a depth map, or the picture to work on: a path, a PIL picture or an array.
        prompt: what to draw, or what to change.
        steps, guidance, sampler, image_guidance: the card's choice if left out.
        seed: same seed, same picture.
        control: strength of a ControlNet.
        negative: prompt that guidance leads away from.
        invert, degradation, estimator, size, largest, lines: see :func:`uploads.prepare`.
        preview: how steps before the last are decoded: ``full``; ``fast``, by a small decoder where the family has
            one, else at half the size; or ``none``, so that they have no picture.

    Raises:
        ImageError, PromptError, ValueError: before anything is drawn.
    """
    check_prompt(model, prompt)
    how = plan(model, steps, sampler, guidance, image_guidance, control, negative)
    pixels = prepare(model, image, invert, degradation, estimator, size, largest, lines)
    return draw(model, pixels, prompt, seed, how, preview)


def draw(model: Model, pixels: Tensor, prompt: str, seed: int, how: Plan, preview: str = "full") -> Iterator[Step]:
    """As :func:`sample`, for an upload that is prepared already and may be drawn more than once.

    Args:
        model: see :func:`load`.
        pixels: from :func:`uploads.prepare`, for this model.
        prompt, seed, preview: see :func:`sample`.
        how: see :func:`plan`.

    Raises:
        ValueError: no such preview.
    """
    if preview not in PREVIEWS:
        raise ValueError(f"the preview is one of {', '.join(PREVIEWS)}, not {preview!r}")
    side = model.size if model.card.task == "upscale" else pixels.shape[-1]
    tiling = Tiling(*pixels.shape[-2:], side, model.pixels_per_latent)
    squares, channels = tiling.cut(pixels), model.components.unet.config.out_channels
    count = max(1, TOGETHER // tiling.side**2)

    def noise(number: int) -> Noise:
        own = torch.Generator().manual_seed(seed)
        return lambda: tiling.noise(channels, own).split(count)[number]

    def batches() -> list[Iterator[LatentStep]]:
        return [
            _sample_from(model, as_condition(model, part), [prompt] * len(part), noise(k), how)
            for k, part in enumerate(squares.split(count))
        ]

    return _decoded(model, batches, how, tiling, preview)


def _decoded(
    model: Model, batches: Callable[[], list[Iterator[LatentStep]]], how: Plan, tiling: Tiling, preview: str
) -> Iterator[Step]:
    """The batches of squares side by side, one step of all of them after the other."""
    begin, sampling = _now(model.device), 0.0
    together = zip(*batches(), strict=True)
    while (steps := next(together, None)) is not None:
        sampled = _now(model.device)
        sampling, step = sampling + sampled - begin, steps[0]
        fast = preview == "fast" and step.i + 1 < step.n
        picture = None
        if preview != "none" or step.i + 1 == step.n:
            squares = torch.cat([_pictures(model, part.x0, fast) for part in steps])
            picture = to_pil(tiling.blend(squares)[0])
        nfe = (step.i + 1) * how.guidance.evaluations
        yield Step(step.i, step.n, step.t, nfe, picture, sampling, time.perf_counter() - sampled)
        begin = _now(model.device)  # the clock stands still while the picture is looked at


def _now(device: torch.device) -> float:
    """Seconds, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def _pictures(model: Model, x0: Tensor, fast: bool) -> Tensor:
    """Decoded as it should be, or fast."""
    vae, small = model.components.vae, model.components.preview
    if fast and small is not None:
        return decode(small, x0)
    if fast:
        return F.interpolate(decode(vae, F.avg_pool2d(x0, 2)), scale_factor=2.0)
    return decode(vae, x0)
