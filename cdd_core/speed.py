"""What saves time or memory and leaves the mathematics alone: half precision, plain attention, compiled code."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # what mixed_precision's names compute in
SHAPES = 64  # of one kind of block that are compiled before torch gives up


def mixed_precision(wanted: str, device: torch.device) -> str:
    """accelerate's name of the precision to train in; ``auto`` is bf16 wherever the hardware multiplies it.

    Where it is emulated it is slower: a CPU without bf16 instructions stays with fp32, an older GPU takes fp16.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if device.type == "cpu" and native else "no"


def diffusion_networks(module: nn.Module) -> Iterator[UNet2DConditionModel | ControlNetModel]:
    """Every U-Net and ControlNet inside ``module``."""
    return (net for net in module.modules() if isinstance(net, (UNet2DConditionModel, ControlNetModel)))


def plain_attention(module: nn.Module) -> None:
    """Attention as two matrix products in every diffusers network inside ``module``, if it is on the CPU.

    The networks here attend at 8 x 8 positions only; there torch's fused CPU kernel takes longer than the products,
    most of all in the backward pass.
    """
    for network in diffusion_networks(module):
        if network.device.type == "cpu":
            network.set_attn_processor(AttnProcessor())


def compile_blocks(module: nn.Module) -> None:
    """Have torch compile the blocks that networks repeat, each shape once, at their first calls; names of weights stay.

    Block by block takes a fraction of a whole network's compilation and leaves hardly anything between them. And of a
    whole U-Net torch 2.13 makes code for CPUs whose gradients end at the last upsampling: its loss falls, and four
    parameters in five never learn. ``tests`` compare the gradients of what is compiled here. Compiled
    code is kept on disk (``TORCHINDUCTOR_CACHE_DIR``) for the next start. CUDA graphs are recorded of whole networks
    instead, see ``graphs``: a block's own would free what the block before it has handed over.

    Args:
        module: a denoiser, an autoencoder, or whatever holds such networks.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    for block in module.modules():
        if isinstance(block, (ResnetBlock2D, BasicTransformerBlock)):
            block.compile(dynamic=False)


def checkpoint_activations(module: nn.Module) -> None:
    """Have every diffusers network compute its activations again on the way back (Chen et al. 2016).

    Frozen ones too: gradients pass through a frozen U-Net to its adapter. Without gradients it changes nothing.
    """
    for network in diffusion_networks(module):
        network.enable_gradient_checkpointing()
