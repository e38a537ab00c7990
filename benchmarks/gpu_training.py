"""Distillation steps of Stable Diffusion's size on a CUDA device: our stages beside the usual recipe; see ``gpu``."""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.cost import CLIP_L, PUBLIC, Nets, adapted, build, denoised
from cdd_core.config import LoopConfig
from cdd_core.data.latents import LatentSet, encode
from cdd_core.data.store import TerraStore
from cdd_core.denoiser import frozen
from cdd_core.models import Components
from cdd_core.recipes import CDD_PRESETS
from cdd_core.schedule import Schedule
from cdd_core.stages.distillation import DistillationStage
from cdd_core.trainer import Stage, average_of, build_optimizer, make_fast, step_generator

ROWS = 32  # examples; the same ones again and again
WARM_UP, STEPS = 2, 6
SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
Step = Callable[[int], object]


def train_all(
    device: str, batch: int, widths: tuple[int, ...], side: int, tokenizer_folder: Path
) -> dict[str, dict[str, float]]:
    """Samples a second and most memory of every recipe, one after the other, each alone on the device."""
    tokenizer, text = words_of(tokenizer_folder)
    found: dict[str, dict[str, float]] = {}
    for preset in ("sd-paper", "sd-best"):
        for checkpointing in (True, False):
            name = f"{preset}, activations {'computed again' if checkpointing else 'kept'}"
            loop = replace(CDD_PRESETS[preset].loop, batch=batch, checkpointing=checkpointing)
            found[name] = measured(
                lambda preset=preset, loop=loop: ours(preset, loop, device, widths, side, text, tokenizer),
                batch,
                device,
            )
    for precision in (torch.bfloat16, torch.float32):
        name = f"{PUBLIC}, computed in {str(precision).removeprefix('torch.')}"
        found[name] = measured(lambda p=precision: usual(batch, device, widths, side, text, p), batch, device)
    rival = found[f"{PUBLIC}, computed in bfloat16"]
    for row in found.values():
        row["times_as_fast"] = row["samples_a_second"] / rival["samples_a_second"]
        if rival["peak_gib"]:
            row["memory_ratio"] = row["peak_gib"] / rival["peak_gib"]
    return found


def words_of(folder: Path) -> tuple[CLIPTokenizer, CLIPTextConfig]:
    """A tokenizer, and a text encoder of Stable Diffusion's size for its words."""
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    return tokenizer, CLIPTextConfig(**CLIP_L, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)


def measured(make: Callable[[], Step], batch: int, device: str) -> dict[str, float]:
    """Build a recipe, take some steps, and forget it."""
    step, taken = make(), []
    gc.collect()
    for number in range(WARM_UP + STEPS):
        if device == "cuda" and number == WARM_UP:
            torch.cuda.reset_peak_memory_stats()  # building took copies that are gone
        begin = time.perf_counter()
        step(number)
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {"samples_a_second": batch / statistics.median(taken[WARM_UP:]), "peak_gib": peak / 2**30}


def ours(
    preset: str,
    loop: LoopConfig,
    device: str,
    widths: tuple[int, ...],
    side: int,
    text: CLIPTextConfig,
    tokenizer: CLIPTokenizer,
) -> Step:
    """A stage in steps like ``trainer.train``'s, with cached latents; the autoencoder stays to draw previews."""
    config = CDD_PRESETS[preset]
    nets = build(device, torch.float32, widths, side)
    with torch.device(device):
        encoder = CLIPTextModel(text)
    components = Components(nets.vae, tokenizer, encoder, nets.unet, dict(DDIMScheduler(**SCHEDULER).config))
    teacher = nn.ModuleDict({"controlnet": nets.controlnet}) if config.needs_undistilled else None
    with torch.device(device):
        stage = DistillationStage(config, components, teacher, examples(side, device)).to(device)
    stage.to(memory_format=torch.channels_last).eval()
    make_fast(stage, loop, "bf16")
    del nets, components
    averaged = average_of(stage.student, loop.ema_decay)
    optimizer = build_optimizer(loop, stage)
    learning = [p for p in stage.parameters() if p.requires_grad]

    def step(number: int) -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = one_loss(stage, number, loop.batch, device)
        loss.backward()
        nn.utils.clip_grad_norm_(learning, loop.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        stage.after_step()
        averaged.update_parameters(stage.student)

    return step


def one_loss(stage: Stage, number: int, batch: int, device: str) -> Tensor:
    """Of one drawn batch."""
    draws = stage.draw(step_generator(0, number), batch)
    return stage({name: value.to(device) for name, value in draws.items()})["loss"]


def examples(side: int, device: str) -> LatentSet:
    """Random latents, texts and depth, held as cached ones are."""
    rng, pixels = np.random.default_rng(0), 8 * side
    depth = rng.integers(0, 2**16, (ROWS, 1, pixels, pixels), dtype=np.uint16)
    store = TerraStore(np.zeros((ROWS, 3, 8, 8), np.uint8), depth, np.zeros((ROWS, 4), np.uint8))
    latents = torch.randn(ROWS, 4, side, side, device=device).half()
    words = torch.randint(0, 256, (ROWS, 1, 77), device=device)
    return LatentSet(latents, words.to(torch.int16), words[0, 0], store)


def usual(
    batch: int, device: str, widths: tuple[int, ...], side: int, text: CLIPTextConfig, precision: torch.dtype
) -> Step:
    """Teacher, student and target as copies in fp32; student and target doubled for guidance; pictures encoded anew."""
    nets = build(device, torch.float32, widths, side)
    schedule = Schedule(dict(DDIMScheduler(**SCHEDULER).config))
    with torch.device(device):
        encoder = frozen(CLIPTextModel(text))
    for net in (nets.unet, nets.controlnet, nets.vae):
        net.to(memory_format=torch.channels_last)
    base = copy.deepcopy(nets.unet)
    target = Nets(copy.deepcopy(nets.unet), copy.deepcopy(nets.controlnet), nets.vae, nets.tiny)
    learning = list(nets.controlnet.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(learning, lr=1e-5, fused=True)
    images = torch.rand(batch, 3, 8 * side, 8 * side, device=device)
    words = torch.zeros(batch, 77, dtype=torch.long, device=device)
    t = torch.full((batch,), 500, device=device)

    def guided(these: Nets, z: Tensor, told: Tensor, when: Tensor) -> Tensor:
        given = (z.repeat(2, 1, 1, 1), when.repeat(2), told, images.repeat(2, 1, 1, 1))
        with_prompt, without = denoised(these, given, adapted(these, given)).chunk(2)
        return without + 7.5 * (with_prompt - without)

    def step(_: int) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision != torch.float32):
            with torch.no_grad():
                x, told = encode(nets.vae, images * 2 - 1), encoder(torch.cat([words, words])).last_hidden_state
                z_t = schedule.noise(x, torch.randn_like(x), t)
                taught = schedule.to_prediction(base(z_t, t, told[:batch], return_dict=False)[0], z_t, t)
                z_s = schedule.ddim(taught, t - 20)
                there = guided(target, z_s, told, t - 20)
            loss = F.mse_loss(guided(nets, z_t, told, t).float(), there.float())
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(list(target.controlnet.parameters()), learning, 0.05)

    return step
