"""The exported folders in stock diffusers pipelines draw the pictures that our sampler draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from safetensors import safe_open
from torch import Tensor, nn

from cdd_core.adapters import ControlNetAdapter, NoAdapter
from cdd_core.data.latents import decode
from cdd_core.denoiser import Denoiser, Guidance
from cdd_core.inference import Plan, as_condition, sample_latents
from cdd_core.loading import Model, load
from cdd_core.models import build_controlnet, embed_prompts
from cdd_core.sampler import LatentStep
from cdd_core.schedule import grid

PROMPTS = ["a lake", "night on a hill"]
SEEDS = [5, 6]
CLOSE = {"rtol": 0, "atol": 1e-4}


pytestmark = pytest.mark.usefixtures("quiet_diffusers")


def stock(family: Path, variant: str, device: torch.device) -> StableDiffusionControlNetPipeline:
    """As a person would load our folders without our code."""
    controlnet = ControlNetModel.from_pretrained(family / "depth" / variant / "controlnet", torch_dtype=torch.float32)
    pipe = StableDiffusionControlNetPipeline.from_pretrained(
        family / "base", controlnet=controlnet, torch_dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def draw(
    pipe: StableDiffusionControlNetPipeline, conditions: Tensor, steps: int | list[int], guidance: float
) -> tuple[Tensor, Tensor]:
    """Final latents and pictures in [0, 1] of the stock pipeline."""
    count = {"timesteps": steps} if isinstance(steps, list) else {"num_inference_steps": steps}
    generators, latents = [torch.Generator().manual_seed(seed) for seed in SEEDS], []

    def keep(_: object, step: int, t: object, given: dict[str, Tensor]) -> dict[str, Tensor]:
        latents.append(given["latents"])
        return {}

    how = {"guidance_scale": guidance, "generator": generators, "output_type": "pt", "callback_on_step_end": keep}
    pictures = pipe(PROMPTS, conditions[:2], **how, **count).images
    return latents[-1], pictures


def ours(model: Model, conditions: Tensor, sampler: str, steps: int, guidance: float) -> list[LatentStep]:
    return list(sample_latents(model, conditions[:2], PROMPTS, SEEDS, Plan(steps, sampler, Guidance(guidance))))


def compare(model: Model, last: LatentStep, latents: Tensor, pictures: Tensor) -> None:
    torch.testing.assert_close(last.x0, latents, **CLOSE)
    torch.testing.assert_close(decode(model.components.vae, last.x0), pictures.float(), **CLOSE)
    assert pictures.std() > 0.01, "blank pictures would agree too"


# diffusers' DDIM steps by 1000 // n, which lands beside its own next timestep where n does not divide 1000.
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 10, 20])
def test_ddim(family: Path, undistilled: Model, conditions: Tensor, device: torch.device, steps: int, guidance: float):
    pipe = stock(family, "undistilled", device)
    assert isinstance(pipe.scheduler, DDIMScheduler), "the folder names the scheduler itself"
    latents, pictures = draw(pipe, conditions, steps, guidance)
    compare(undistilled, ours(undistilled, conditions, "ddim", steps, guidance)[-1], latents, pictures)


def test_another_size(family: Path, undistilled: Model, conditions: Tensor, device: torch.device):
    given = nn.functional.interpolate(conditions, size=3 * undistilled.size // 2)
    latents, pictures = draw(stock(family, "undistilled", device), given, 4, 1.0)
    assert pictures.shape[-1] == 3 * undistilled.size // 2
    compare(undistilled, ours(undistilled, given, "ddim", 4, 1.0)[-1], latents, pictures)


def test_weaker_control_and_a_negative_prompt(
    family: Path, undistilled: Model, conditions: Tensor, device: torch.device
):
    pipe, given = stock(family, "undistilled", device), conditions[:2]
    results = [
        pipe(
            PROMPTS,
            given,
            negative_prompt=["fog"] * 2,
            controlnet_conditioning_scale=0.4,
            num_inference_steps=4,
            guidance_scale=3.0,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            output_type=kind,
        ).images
        for kind in ("latent", "pt")
    ]
    how = Plan(4, "ddim", Guidance(3.0, control=0.4), "fog")
    compare(undistilled, list(sample_latents(undistilled, given, PROMPTS, SEEDS, how))[-1], *results)


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 10, 20])
def test_distilled_ddim(family: Path, distilled: Model, conditions: Tensor, device: torch.device, steps: int):
    """On the grid of the student's 20 stages, wherever the number of steps divides it."""
    latents, pictures = draw(stock(family, "distilled", device), conditions, steps, 1.0)
    compare(distilled, ours(distilled, conditions, "ddim", steps, 1.0)[-1], latents, pictures)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8])
def test_renoising_is_lcm(
    family: Path, distilled: Model, conditions: Tensor, device: torch.device, steps: int, guidance: float
):
    """LCMScheduler takes our grid as it is, so here every number of steps agrees."""
    pipe = stock(family, "distilled", device)
    stages = distilled.card.stages
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=stages)
    latents, pictures = draw(pipe, conditions, grid(steps, stages, 1000), guidance)
    compare(distilled, ours(distilled, conditions, "renoise", steps, guidance)[-1], latents, pictures)


@pytest.mark.parametrize(
    ("name", "scheduler"), [("dpmsolver++", DPMSolverMultistepScheduler), ("unipc", UniPCMultistepScheduler)]
)
@pytest.mark.parametrize("steps", [2, 4, 7, 20])
def test_rival_solvers(
    family: Path,
    undistilled: Model,
    conditions: Tensor,
    device: torch.device,
    name: str,
    scheduler: type[DPMSolverMultistepScheduler | UniPCMultistepScheduler],
    steps: int,
):
    """A rival that we ran wrongly would be beaten too easily."""
    pipe = stock(family, "undistilled", device)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    latents, pictures = draw(pipe, conditions, steps, 1.0)
    compare(undistilled, ours(undistilled, conditions, name, steps, 1.0)[-1], latents, pictures)


@pytest.mark.parametrize(("text", "image"), [(3.0, 1.5), (2.0, 1.0), (1.0, 1.0)])
def test_editing(family: Path, device: torch.device, text: float, image: float):
    """InstructPix2Pix: both scales, text alone, and none, on pictures of which the pipeline makes latents itself."""
    model = load(family, "edit", "undistilled", device)
    unet = UNet2DConditionModel.from_pretrained(family / "edit" / "undistilled" / "unet", torch_dtype=torch.float32)
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(family / "base", unet=unet, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    photos = torch.rand(2, 3, model.size, model.size, generator=torch.Generator().manual_seed(1))
    given = pipe(
        PROMPTS,
        photos,
        num_inference_steps=5,
        guidance_scale=text,
        image_guidance_scale=image,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="latent",
    ).images
    how = Plan(5, "ddim", Guidance(text, image))
    mine = list(sample_latents(model, as_condition(model, photos), PROMPTS, SEEDS, how))[-1].x0
    torch.testing.assert_close(mine, given, **CLOSE)
    other = list(sample_latents(model, as_condition(model, photos.flip(0)), PROMPTS, SEEDS, how))[-1].x0
    assert (other - mine).abs().max() > 50 * CLOSE["atol"], "the picture counts"


@pytest.mark.parametrize("sampler", ["ddim", "renoise"])
def test_parity_could_fail(distilled: Model, undistilled: Model, conditions: Tensor, sampler: str):
    """Samplers, variants, conditions and guidance differ by far more than the tolerance above."""
    base = ours(undistilled, conditions, sampler, 4, 1.0)[-1].x0
    other = "renoise" if sampler == "ddim" else "ddim"
    for changed in (
        ours(undistilled, conditions, other, 4, 1.0),
        ours(undistilled, conditions, sampler, 4, 3.0),
        ours(undistilled, conditions.roll(1, 0), sampler, 4, 1.0),
        ours(distilled, conditions, sampler, 4, 1.0),
    ):
        assert (changed[-1].x0 - base).abs().max() > 50 * CLOSE["atol"]


def test_untouched_zero_convolutions_change_nothing(family: Path, conditions: Tensor, device: torch.device):
    """A student at step 0 is its base to the last bit, at every noise level."""
    model = load(family, "depth", "untouched", device)
    unet, schedule = model.components.unet, model.components.schedule
    fresh = build_controlnet(unet, (8, 8, 16)).to(device)
    text = embed_prompts(model.components, PROMPTS)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    base = Denoiser(unet, NoAdapter(), schedule)
    for adapter in (model.denoiser.adapter, ControlNetAdapter(fresh)):
        student = Denoiser(unet, adapter, schedule)
        for time in (0, 499, 999):
            t = torch.full((2,), time, device=device)
            for guidance in (Guidance(1.0), Guidance(2.0)):
                with torch.no_grad():
                    mine = student(z, t, text, conditions[:2].to(device), guidance)
                    plain = base(z, t, text, None, guidance)
                assert torch.equal(mine.x0, plain.x0)
                assert torch.equal(mine.eps, plain.eps)


def test_export_is_half_precision_in_small_files(family: Path):
    files = list(family.rglob("*.safetensors"))
    assert len(files) == 8
    for path in files:
        assert path.stat().st_size < 10_000_000
        with safe_open(path, "pt") as file:
            kinds = {file.get_slice(key).get_dtype() for key in file.keys() if "position_ids" not in key}  # noqa: SIM118
        assert kinds == ({"F32"} if path.parent.name == "text_encoder" else {"F16"}), path


def test_loading_shares_the_base(family: Path, undistilled: Model):
    model = load(family, "depth", "distilled", undistilled.device, shared=undistilled.components)
    assert model.denoiser.unet is undistilled.denoiser.unet
    assert model.denoiser.adapter is not undistilled.denoiser.adapter
    assert not any(parameter.requires_grad for parameter in model.denoiser.parameters())


@pytest.mark.parametrize(
    ("task", "variant", "error", "words"),
    [
        ("depth", "missing", FileNotFoundError, "no weights in"),
        ("sketch", "distilled", ValueError, "the task is one of"),
    ],
)
def test_what_is_not_there_is_said(family: Path, task: str, variant: str, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        load(family, task, variant)
