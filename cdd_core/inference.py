"""Sample from a loaded model: what the command line, the app and the evaluation call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cdd_core.data.degrade import degrade, enlarged
from cdd_core.data.latents import decode, encode
from cdd_core.denoiser import Guidance, Text, initial_noise
from cdd_core.estimator import DepthEstimator
from cdd_core.images import open_image, to_disparity, to_picture, to_pil, to_small_picture
from cdd_core.loading import Model
from cdd_core.models import embed_prompts
from cdd_core.sampler import SAMPLERS, LatentStep, build_sampler, trajectory
from cdd_core.schedule import grid
from cdd_core.seeds import derived_seed
from cdd_core.tasks import EDGES, UPSCALE, depth_condition
from cdd_core.tiles import Tiling

MAX_STEPS = 250
MOST_TILES = 4  # along a side of a picture to enlarge, overlaps aside
PREVIEWS = ("full", "fast")


@dataclass(frozen=True)
class Step:
    """One step of a run, decoded: number i of n at timestep t; ``nfe`` counts network evaluations so far."""

    i: int
    n: int
    t: int
    nfe: int
    image: Image.Image


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
        condition: as the adapter takes it, (B, 3, S, S).
        prompts, seeds: B of each.
        how: see :func:`plan`.
    """
    schedule = model.components.schedule
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    side = model.components.unet.config.sample_size if condition is None else model.latents_side(condition)
    z = initial_noise((model.components.unet.config.out_channels, side, side), generators).to(model.device)
    times = grid(how.steps, model.card.stages, schedule.steps)
    sampler, times = build_sampler(how.sampler, schedule, model.components.scheduler, times, generators)
    text = embed_prompts(model.components, prompts, how.negative)
    own = model.denoiser.unet.dtype  # now, so that every step gives the adapter the very same tensors
    text = Text(text.prompt.to(own), text.empty.to(own))
    condition = None if condition is None else condition.to(model.device, own)
    yield from trajectory(model.denoiser, z, times, sampler, text, condition, how.guidance)


class PromptError(ValueError):
    """A prompt that asks for nothing the model knows. The message is one sentence for the person who wrote it."""


def check_prompt(model: Model, prompt: str) -> None:
    """Refuse what would silently change nothing.

    Raises:
        PromptError: the model knows a list of words, and none of them is in the prompt.
    """
    known = model.card.words
    if known and not set(re.findall(r"[a-z]+", prompt.lower())) & set(known):
        raise PromptError(
            f"This model understands only changes it was trained on; use one of these words: {', '.join(known)}."
        )


def prepare(
    model: Model,
    image: str | Path | Image.Image | np.ndarray,
    invert: bool = False,
    degradation: float = 0.0,
    estimator: DepthEstimator | None = None,
    size: int | None = None,
) -> Tensor:
    """An upload as the model sees it, pixels in [0, 1]: (1, 3, S, S), or whatever shape a picture to enlarge has.

    Args:
        model: see :func:`load`.
        image: the upload.
        invert: of a depth map, dark is near.
        degradation: of a picture to enlarge. At 0 its own pixels are enlarged (of large ones a smaller version);
            above, it is made four times smaller and damaged first, with this strength.
        estimator: for depth, the upload is a photo, and this says how near everything is.
        size: pixels a side of what will be drawn, one of ``model.sizes``; the model's own if left out.

    Raises:
        ImageError: the upload can't be used; the message says why.
        ValueError: a size that the model can't draw.
    """
    picture, task, size = open_image(image), model.card.task, size or model.size
    if size not in model.sizes:
        raise ValueError(f"the size is one of {', '.join(map(str, model.sizes))} for this model, not {size}")
    if task in EDGES:
        return EDGES[task](to_picture(picture, size))
    if task == "depth" and estimator is not None:
        return depth_condition(estimator(to_picture(picture, size)), model.card.condition_gamma)
    if task == "depth":
        return depth_condition(to_disparity(picture, size, invert=invert), model.card.condition_gamma)
    if task == "edit":
        return to_picture(picture, size)
    given = small_picture(model, picture, degradation)
    return enlarged(given, (given.shape[-2] * UPSCALE, given.shape[-1] * UPSCALE))


def small_picture(model: Model, picture: Image.Image, degradation: float) -> Tensor:
    """What an upscaler's condition is enlarged from, pixels in [0, 1] (1, 3, h, w); see :func:`prepare`."""
    small = model.size // UPSCALE
    if degradation == 0:
        return to_small_picture(picture, small, MOST_TILES * small)
    clean = to_small_picture(picture, model.size, MOST_TILES * model.size)
    clean = clean[..., : clean.shape[-2] // UPSCALE * UPSCALE, : clean.shape[-1] // UPSCALE * UPSCALE]
    return degrade(clean[0], UPSCALE, degradation, torch.Generator().manual_seed(0))[None]


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
        invert, degradation, estimator, size: see :func:`prepare`.
        preview: how steps before the last are decoded: ``full``, or ``fast``: by a small decoder where the family has
            one, else at half the size.

    Raises:
        ImageError, PromptError, ValueError: before anything is drawn.
    """
    check_prompt(model, prompt)
    how = plan(model, steps, sampler, guidance, image_guidance, control, negative)
    return draw(model, prepare(model, image, invert, degradation, estimator, size), prompt, seed, how, preview)


def draw(model: Model, pixels: Tensor, prompt: str, seed: int, how: Plan, preview: str = "full") -> Iterator[Step]:
    """As :func:`sample`, for an upload that is prepared already and may be drawn more than once.

    Args:
        model: see :func:`load`.
        pixels: from :func:`prepare`, for this model.
        prompt, seed, preview: see :func:`sample`.
        how: see :func:`plan`.

    Raises:
        ValueError: no such preview.
    """
    if preview not in PREVIEWS:
        raise ValueError(f"the preview is one of {', '.join(PREVIEWS)}, not {preview!r}")
    tiling = Tiling(*pixels.shape[-2:], model.size if model.card.task == "upscale" else pixels.shape[-1])
    condition = as_condition(model, tiling.cut(pixels))
    # Every square draws its own noise; the first one what the picture would have if it were the only one.
    seeds = [seed, *(derived_seed(seed, k) for k in range(1, len(condition)))]
    steps_of_latents = sample_latents(model, condition, [prompt] * len(seeds), seeds, how)
    return _decoded(model, steps_of_latents, how, tiling, preview)


def _decoded(model: Model, steps: Iterator[LatentStep], how: Plan, tiling: Tiling, preview: str) -> Iterator[Step]:
    for step in steps:
        fast = preview == "fast" and step.i + 1 < step.n
        small = model.components.preview
        if fast and small is not None:
            squares = decode(small, step.x0)
        elif fast:
            squares = F.interpolate(decode(model.components.vae, F.avg_pool2d(step.x0, 2)), scale_factor=2.0)
        else:
            squares = decode(model.components.vae, step.x0)
        picture = to_pil(tiling.blend(squares)[0])
        yield Step(step.i, step.n, step.t, (step.i + 1) * how.guidance.evaluations, picture)
