"""What Stable Diffusion 1.5 at 512 px costs by our way and by the usual one, counted on the meta device: no weights.

    python -m benchmarks.cost --out docs/cost.json

Ratios of floating-point operations for a picture, and of operations and memory for a training sample. What time that
takes on a GPU, ``benchmarks.gpu`` tells.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.report import publish
from cdd_core.dryrun import memory_of
from cdd_core.models import Components, scheduler_config
from cdd_core.recipes import CDD_PRESETS
from cdd_core.stages.distillation import DistillationStage
from cdd_core.trainer import make_fast

SIDE, CONTEXT, TOKENS = 64, 768, 77
WIDTHS = (320, 640, 1280, 1280)
STEPS = 4
BATCH = 8  # of the training memory
LENGTHS = {TOKENS, *((SIDE >> level) ** 2 for level in range(4))}  # of sequences that attention sees
GIB = 2**30
KEPT, AGAIN = "activations kept", "activations computed again"
PUBLIC = "public recipe: teacher, student and target as copies in fp32, guidance doubled, encoder in the loop"
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


@dataclass(frozen=True)
class Options:
    """Where to write."""

    out: Path | None = None


@dataclass(frozen=True)
class Nets:
    """Stable Diffusion 1.5 with a ControlNet, and both decoders."""

    unet: UNet2DConditionModel
    controlnet: ControlNetModel
    vae: AutoencoderKL
    tiny: AutoencoderTiny


def build(device: str, dtype: torch.dtype, widths: tuple[int, ...] = WIDTHS, side: int = SIDE) -> Nets:
    """Random weights in the public shapes, or in smaller ones to try a benchmark with."""
    with torch.device(device):
        unet = UNet2DConditionModel(
            block_out_channels=widths, cross_attention_dim=CONTEXT, attention_head_dim=8, sample_size=side
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        )
        nets = Nets(unet, ControlNetModel.from_unet(unet, load_weights_from_unet=False), vae, AutoencoderTiny())
    for net in (nets.unet, nets.controlnet, nets.vae, nets.tiny):
        net.to(dtype).eval().requires_grad_(False)
    return nets


def inputs(batch: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """State, time, text, condition."""
    return (
        torch.zeros(batch, 4, SIDE, SIDE, device=device, dtype=dtype),
        torch.zeros(batch, device=device, dtype=torch.long),
        torch.zeros(batch, TOKENS, CONTEXT, device=device, dtype=dtype),
        torch.zeros(batch, 3, 8 * SIDE, 8 * SIDE, device=device, dtype=dtype),
    )


def adapted(nets: Nets, given: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    """What the ControlNet says."""
    z, t, text, condition = given
    return nets.controlnet(z, t, text, controlnet_cond=condition, return_dict=False)


def denoised(
    nets: Nets, given: tuple[Tensor, Tensor, Tensor, Tensor], told: tuple[tuple[Tensor, ...], Tensor]
) -> Tensor:
    """One network evaluation."""
    z, t, text, _ = given
    down, mid = told
    return nets.unet(
        z, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid, return_dict=False
    )[0]


@torch.no_grad()
def ours(nets: Nets, once: bool, tiny: bool) -> Tensor:
    """Four distilled steps: no guidance branches; the adapter once or every step; a full or a tiny decoder."""
    given = inputs(1, "meta", nets.unet.dtype)
    told = adapted(nets, given)
    for step in range(STEPS):
        told = told if once or step == 0 else adapted(nets, given)
        latents = denoised(nets, given, told)
    return (nets.tiny if tiny else nets.vae).decode(latents).sample


@torch.no_grad()
def usual(nets: Nets, steps: int) -> Tensor:
    """diffusers' guided ControlNet pipeline: both branches of guidance in one batch at every step, full decoder."""
    given = inputs(2, "meta", nets.unet.dtype)
    for _ in range(steps):
        latents = denoised(nets, given, adapted(nets, given))
    return nets.vae.decode(latents[:1]).sample


def operations(run: Callable[[], object]) -> float:
    """Floating-point operations of a call."""
    with FlopCounterMode(display=False) as counted:
        run()
    return float(counted.get_total_flops())


def training(nets: Nets) -> dict[str, float]:
    """Operations of one training sample: both presets, as fast and as small as they can be, and the public recipe."""
    given = inputs(1, "meta", torch.float32)

    def forward() -> object:
        return denoised(nets, given, adapted(nets, given))

    def backward() -> object:
        nets.controlnet.requires_grad_(True)
        try:
            return forward().sum().backward()
        finally:
            nets.controlnet.requires_grad_(False)

    with torch.no_grad():
        one = operations(forward)
        alone = operations(lambda: nets.unet(*given[:3], return_dict=False)[0])
        encoded = operations(lambda: nets.vae.encode(given[3]).latent_dist.mode())
    both = operations(backward)
    return {
        "sd-paper": both + one,
        "sd-paper, activations computed again": both + 2 * one,
        "sd-best: a guided teacher beside": both + one + 2 * one,
        "sd-best, activations computed again": both + 2 * one + 2 * one,
        PUBLIC: alone + both + one + 2 * one + encoded,
    }


def kept_for_backward(nets: Nets, batch: int) -> float:
    """Bytes that a forward pass of the student keeps for its gradients, each storage once, parameters aside.

    Attention weights aren't counted: fused kernels don't keep them, though the meta device, which has none, does.
    """
    own = {p.untyped_storage()._cdata for net in (nets.unet, nets.controlnet) for p in net.parameters()}
    kept: dict[int, Tensor] = {}
    attention: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        kept[storage] = tensor  # held, so that no other storage takes its place in memory
        if tensor.ndim == 3 and {*tensor.shape[1:]} <= LENGTHS:
            attention.add(storage)
        return tensor

    given = inputs(batch, "meta", nets.unet.dtype)
    nets.controlnet.requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = denoised(nets, given, adapted(nets, given))
    nets.controlnet.requires_grad_(False)
    del result
    return float(sum(t.untyped_storage().nbytes() for s, t in kept.items() if s not in own | attention))


def activations(batch: int) -> dict[str, float]:
    """GiB that a step keeps for its gradients: ours in bf16, all or computed again by blocks; the usual way guided."""
    nets = build("meta", torch.bfloat16)
    single, doubled = (kept_for_backward(nets, count) for count in (batch, 2 * batch))
    for net in (nets.unet, nets.controlnet):
        net.enable_gradient_checkpointing()
    return {KEPT: single / GIB, AGAIN: kept_for_backward(nets, batch) / GIB, PUBLIC: doubled / GIB}


def states(nets: Nets) -> dict[str, float]:
    """GiB of weights, gradients, moments and averages, without activations; ours of the stages as they are trained."""

    def size(*parts: nn.Module) -> int:
        return sum(p.numel() for part in parts for p in part.parameters())

    with torch.device("meta"):
        text = CLIPTextModel(CLIPTextConfig(**CLIP_L))
        components = Components(nets.vae, None, text, nets.unet, scheduler_config())
        teacher = nn.ModuleDict({"controlnet": ControlNetModel.from_unet(nets.unet, load_weights_from_unet=False)})
        found = {}
        for preset in ("sd-paper", "sd-best"):
            needs = CDD_PRESETS[preset].needs_undistilled
            stage = DistillationStage(CDD_PRESETS[preset], components, copy.deepcopy(teacher) if needs else None, None)
            loop = CDD_PRESETS[preset].loop
            make_fast(stage, loop, "bf16")
            for optimizer in ("adamw", "adamw8bit"):
                held, _ = memory_of(stage, replace(loop, optimizer=optimizer))
                found[f"{preset}, {optimizer}"] = (held + 4 * size(nets.vae)) / GIB  # it draws the previews
    unet, net, rest = size(nets.unet), size(nets.controlnet), size(nets.vae, text)
    # Teacher, student's U-Net and target's in fp32; a ControlNet with gradient, moments and its target.
    found[PUBLIC] = (4 * 3 * unet + 4 * 5 * net + 4 * rest) / GIB
    return found


def main(options: Options) -> dict[str, object]:
    """Count, print, and keep it if asked to."""
    nets = build("meta", torch.float32)
    pictures: dict[str, Callable[[], object]] = {
        "4 distilled steps, adapter once, tiny decoder": lambda: ours(nets, once=True, tiny=True),
        "4 distilled steps, adapter once": lambda: ours(nets, once=True, tiny=False),
        "4 distilled steps": lambda: ours(nets, once=False, tiny=False),
        "4 guided steps": lambda: usual(nets, STEPS),
        "50 guided steps": lambda: usual(nets, 50),
    }
    found = {name: operations(run) for name, run in pictures.items()}
    samples, memory, kept = training(nets), states(build("meta", torch.float32)), activations(BATCH)
    usual_gib = memory[PUBLIC] + kept[PUBLIC]
    ratios = {
        f"{name}, {how}": (held + kept[how]) / usual_gib
        for name, held in memory.items()
        for how in (KEPT, AGAIN)
        if name != PUBLIC
    }
    report: dict[str, object] = {
        "device": "meta",
        "torch": torch.__version__,
        "began": time.strftime("%F"),
        "tera_operations": {name: value / 1e12 for name, value in found.items()},
        "training_tera_operations": {name: value / 1e12 for name, value in samples.items()},
        "training_speed_up": {name: samples[PUBLIC] / value for name, value in samples.items()},
        "training_states_gib": memory,
        f"training_activations_gib_batch_{BATCH}": kept,
        "training_memory_ratio": ratios,
        "ratio_to_4_guided_steps": {name: value / found["4 guided steps"] for name, value in found.items()},
    }
    return publish(report, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
