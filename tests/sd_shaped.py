"""Public models in miniature: the real classes and folders of Stable Diffusion, a few thousand parameters each."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cdd_core.families import FamilyRow, ModelRow
from cdd_core.safety import EXTRACTOR, NETWORK

SIDE = 8  # latents; pictures are 64 pixels


def tokenizer() -> CLIPTokenizer:
    """Letters and a few words, of CLIP's length."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: k for k, word in enumerate(words)}, merges=[], model_max_length=77)


def unet(channels: int = 4) -> UNet2DConditionModel:
    """The U-Net of SD 1.5 in miniature."""
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=channels,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def write_repositories(root: Path, prediction: str | None, seed: int = 0) -> None:
    """Repositories as the Hub has them: base, depth ControlNet, InstructPix2Pix, LCM-LoRA.

    Args:
        root: folder of the owners' folders.
        prediction: stated in the scheduler config; None leaves it out, as SD 1.5 does.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words = tokenizer()
        text = CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=64,
            scaling_factor=0.18215,
        )
        base = unet()
        scheduler = PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        )
        pipe = StableDiffusionPipeline(
            vae, CLIPTextModel(text), words, base, scheduler, None, None, requires_safety_checker=False
        )
        pipe.save_pretrained(root / "maker" / "base")
        config = root / "maker" / "base" / "scheduler" / "scheduler_config.json"
        content = json.loads(config.read_text())
        content.pop("prediction_type")
        if prediction:
            content["prediction_type"] = prediction
        config.write_text(json.dumps(content))
        _write_safety_checker(root / "maker" / "base")
        small = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        )
        small.save_pretrained(root / "maker" / "taesd")
        net = ControlNetModel.from_unet(base, conditioning_embedding_out_channels=(4, 8, 8, 8))
        for parameter in net.parameters():
            if parameter.abs().max() == 0:
                parameter.data = 0.3 * torch.randn(parameter.shape)
        net.half().save_pretrained(root / "maker" / "depth", variant="fp16")
        unet(8).half().save_pretrained(root / "maker" / "pix2pix" / "unet", variant="fp16")
        _write_lora(base, root / "maker" / "lcm-lora")


def _write_safety_checker(folder: Path) -> None:
    """One that objects to nothing: no picture is nearer to a concept than its threshold, which is 1."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    config = CLIPConfig(vision_config=vision, projection_dim=8)
    StableDiffusionSafetyChecker(config).save_pretrained(folder / NETWORK)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder / EXTRACTOR)


def _write_lora(base: UNet2DConditionModel, folder: Path) -> None:
    """Random low-rank changes of every attention, as diffusers saves them."""
    state = {}
    for name, module in base.named_modules():
        if name.endswith(("to_q", "to_v")):
            state[f"unet.{name}.lora_A.weight"] = 0.3 * torch.randn(2, module.in_features)
            state[f"unet.{name}.lora_B.weight"] = 0.3 * torch.randn(module.out_features, 2)
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file(state, folder / "pytorch_lora_weights.safetensors")


def family(prediction: str) -> FamilyRow:
    """The row that fetches these repositories."""
    net = "maker/depth"
    return FamilyRow(
        "tiny-sd",
        "maker/base",
        prediction,
        preview="maker/taesd",
        safety="maker/base",
        sizes=(96,),
        models=(
            ModelRow("depth", "undistilled", {"controlnet": net}),
            ModelRow(
                "depth",
                "lcm",
                {"controlnet": net, "lora": "maker/lcm-lora"},
                stages=50,
                sampler="renoise",
                guidance=1.0,
                steps=4,
            ),
            ModelRow("edit", "undistilled", {"unet": "maker/pix2pix/unet"}, "concat", image_guidance=1.5, steps=100),
            ModelRow(
                "edit",
                "lcm",
                {"unet": "maker/pix2pix/unet", "lora": "maker/lcm-lora"},
                "concat",
                stages=50,
                sampler="renoise",
                guidance=2.0,
                image_guidance=1.5,
                steps=4,
            ),
        ),
    )
