"""A family of models with random weights, 32 pixels a side, in the shape of the pocket family; for every test."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import nn
from transformers import CLIPTokenizer

from cdd_core.config import CddConfig, LoopConfig, NetConfig
from cdd_core.export import distilled_card, export_adapter, export_base, undistilled_card
from cdd_core.models import Components, build_controlnet, build_text_encoder, build_unet, scheduler_config, widened

TINY = NetConfig(channels=(16, 32), heads=2, groups=8, context=32, text_layers=1, embedding=(8, 8, 16))
LATENT_SIDE = 8
GAMMA = 0.5
STAGES = 20


class PowerCutError(Exception):
    """Stands for a power cut."""


def build_components() -> Components:
    """The same random weights in every session."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = build_tokenizer()
        unet = build_unet(TINY)
        unet.register_to_config(sample_size=LATENT_SIDE)
        for name, parameter in unet.named_parameters():
            if "attn2.to_v" in name:
                parameter.data *= 10  # an untrained network hardly hears the prompt; this one should
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
            latent_channels=4,
            scaling_factor=0.8,  # not 1, so that a forgotten scaling shows
        )
        return Components(vae, tokenizer, build_text_encoder(TINY, tokenizer), unet, scheduler_config())


def build_tokenizer() -> CLIPTokenizer:
    """Bytes and a few merges; learning a real vocabulary takes longer than all the tests."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    merges = [("l", "a"), ("k", "e</w>"), ("la", "ke</w>")]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=24)


def roughen(module: nn.Module) -> None:
    """Give a ControlNet's zero convolutions weights, as training would, so large that the condition counts."""
    for name, parameter in module.named_parameters():
        if parameter.abs().max() == 0:
            parameter.data = (8.0 if "cond_embedding" in name else 0.3) * torch.randn(parameter.shape)


def export_family(components: Components, folder: Path) -> None:
    """Write a folder as ``checkpoints/pocket``, by the project's own export.

    ``depth/undistilled`` and ``depth/distilled`` have ControlNets that differ and matter; ``depth/untouched`` has
    one whose zero convolutions are still zero. ``edit/undistilled`` and ``upscale/undistilled`` take their picture as
    further input channels.
    """
    export_base(components, folder / "base", {})
    undistilled = undistilled_card("depth", {}, 1000, GAMMA, 1.0)
    config = CddConfig(LoopConfig(1, 1, 1e-4), stages=STAGES, samplers=((0, "renoise"), (2, "ddim")))
    cards = {"undistilled": undistilled, "distilled": distilled_card(config, {}, GAMMA), "untouched": undistilled}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for variant, card in cards.items():
            net = build_controlnet(components.unet, TINY.embedding)
            if variant != "untouched":
                roughen(net)
            export_adapter({"controlnet": net}, None, card, folder / "depth" / variant)
        editor = widened(components.unet, 8)
        editor.conv_in.weight.data[:, 4:] = 0.3 * torch.randn(editor.conv_in.weight[:, 4:].shape)
        for task, scales in (("edit", (3.0, 1.5)), ("upscale", (1.0, 1.0))):
            card = undistilled_card(task, {}, 1000, GAMMA, *scales)
            export_adapter({"unet": editor}, None, card, folder / task / "undistilled")
