"""The networks: built small for the pocket family, or read from a diffusers folder."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cdd_core.config import NetConfig
from cdd_core.data.terra.attributes import ATTRIBUTES, Attributes
from cdd_core.data.terra.captions import caption, instruction
from cdd_core.data.terra.landforms import LANDFORMS
from cdd_core.denoiser import Text
from cdd_core.schedule import Schedule

VOCABULARY = 1024
TOKENS = 24
LORA = "lora"  # folder of low-rank changes of a U-Net
LORA_TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)
PREVIEW = "preview"  # folder of a small decoder beside the large one
SD_EMBEDDING = (16, 32, 96, 256)  # of the public ControlNets of Stable Diffusion


def scheduler_config() -> dict[str, object]:
    """Noise schedule of the pocket family: cosine, v-prediction, zero SNR at the last of 1000 steps."""
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    )
    return dict(scheduler.config)


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer with a small vocabulary learnt from Terra's captions; every byte is in it."""
    rng = np.random.default_rng(0)
    texts: list[str] = []
    for _ in range(20_000):
        first, second = (_random_attributes(rng) for _ in range(2))
        texts.append(caption(first, str(rng.choice(list(LANDFORMS))), rng))
        if first != second:
            texts.append(instruction(first, second, rng))
    stock = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = stock.normalizer, stock.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|startoftext|>", "<|endoftext|>"]
    # Each byte also ends words: without these, a word of an unknown language would lose its last letter.
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special + sorted(f"{letter}</w>" for letter in alphabet),
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(m) for m in learnt["merges"]]
    return CLIPTokenizer(vocab=learnt["vocab"], merges=merges, model_max_length=TOKENS)


def _random_attributes(rng: np.random.Generator) -> Attributes:
    return Attributes(*(str(rng.choice(values)) for values in ATTRIBUTES.values()))


def build_text_encoder(config: NetConfig, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model of a few layers, to be trained by the stage ``text``."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.context,
            intermediate_size=4 * config.context,
            num_hidden_layers=config.text_layers,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(config: NetConfig, in_channels: int = 4) -> UNet2DConditionModel:
    """The denoising network.

    Text enters twice: by cross-attention at the lowest resolution, and pooled, beside the time, in every block. The
    second way is what makes it learnt: with the first alone the decoder began by ignoring the still meaningless text,
    and after 1,470 steps the caption changed the prediction by 0.3 % of its spread; with both, after 500, by half.
    """
    levels = len(config.channels)
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=in_channels,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=config.channels,
        down_block_types=("DownBlock2D",) * (levels - 1) + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        cross_attention_dim=config.context,
        attention_head_dim=config.heads,  # diffusers' historical name for the number of heads
        norm_num_groups=config.groups,
        addition_embed_type="text",
        addition_embed_type_num_heads=config.heads,
    )


def widened(unet: UNet2DConditionModel, in_channels: int) -> UNet2DConditionModel:
    """A copy with further input channels, which change nothing as long as their weights are zero.

    Args:
        unet: the base.
        in_channels: at least as many as it has.
    """
    config = {**unet.config, "in_channels": in_channels}
    wide = UNet2DConditionModel.from_config(config)
    weights = dict(unet.state_dict())
    narrow = weights["conv_in.weight"]
    extra = narrow.new_zeros(len(narrow), in_channels - narrow.shape[1], *narrow.shape[2:])
    weights["conv_in.weight"] = torch.cat([narrow, extra], 1)
    wide.load_state_dict(weights)
    return wide.to(unet.device, unet.dtype)


def build_controlnet(unet: UNet2DConditionModel, channels: tuple[int, ...]) -> ControlNetModel:
    """A ControlNet that starts as the U-Net's encoder and changes nothing.

    Args:
        unet: the frozen base.
        channels: of the condition's embedding, one halving of the resolution between neighbours.
    """
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels, conditioning_channels=3)
    if unet.config.addition_embed_type == "text":  # diffusers copies these weights, but not their number of heads
        heads, pool = unet.config.addition_embed_type_num_heads, net.add_embedding.pool
        net.register_to_config(addition_embed_type_num_heads=heads)
        pool.num_heads, pool.dim_per_head = heads, pool.q_proj.in_features // heads
    return net


@dataclass(frozen=True)
class Components:
    """The parts that every model of a family shares."""

    vae: AutoencoderTiny | AutoencoderKL
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    scheduler: dict[str, object]
    preview: AutoencoderTiny | None = None  # decodes the same latents, small and quick (TAESD)

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.scheduler)

    def to(self, device: torch.device, dtype: torch.dtype) -> Components:
        """Move the networks; the text encoder keeps its own dtype (stock pipelines crash otherwise)."""
        for module in filter(None, (self.vae, self.unet, self.preview)):
            module.to(device, dtype)
        self.text_encoder.to(device)
        return self


def load_components(folder: Path) -> Components:
    """Read a diffusers pipeline folder from disk, safetensors only.

    Raises:
        FileNotFoundError: a part is missing, named in the message.
    """
    for part in ("vae", "tokenizer", "text_encoder", "unet", "scheduler"):
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"{folder} is not a diffusers model folder: it has no {part}/")
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    return Components(
        vae=load_module(folder / "vae"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=load_text_encoder(folder / "text_encoder"),
        unet=load_module(folder / "unet"),
        scheduler=scheduler,
        preview=load_module(folder / PREVIEW) if (folder / PREVIEW).is_dir() else None,
    )


def load_text_encoder(folder: Path) -> CLIPTextModel:
    """Read a text encoder, safetensors only."""
    return CLIPTextModel.from_pretrained(folder, use_safetensors=True)


CLASSES: dict[str, type[nn.Module]] = {
    c.__name__: c for c in (AutoencoderTiny, AutoencoderKL, UNet2DConditionModel, ControlNetModel)
}


def load_module(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """One network of a diffusers folder, of the class its config names.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a class this project does not know.
    """
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no model (no config.json)")
    name = json.loads(path.read_text()).get("_class_name")
    if name not in CLASSES:
        raise ValueError(f"{path} names the class {name!r}; known are {', '.join(CLASSES)}")
    return CLASSES[name].from_pretrained(folder, use_safetensors=True, torch_dtype=dtype)


def latents_factor(vae: AutoencoderTiny | AutoencoderKL) -> int:
    """How many pixels one latent covers along a side."""
    channels = getattr(vae.config, "block_out_channels", None) or vae.config.encoder_block_out_channels
    return 2 ** (len(channels) - 1)


def condition_channels(config: NetConfig, vae: AutoencoderTiny | AutoencoderKL) -> tuple[int, ...]:
    """Widths of a ControlNet's condition embedding: ours, or Stable Diffusion's where a latent covers 8 x 8 pixels."""
    return config.embedding if latents_factor(vae) == 2 ** (len(config.embedding) - 1) else SD_EMBEDDING


def low_rank(unet: UNet2DConditionModel, rank: int) -> UNet2DConditionModel:
    """The same network, frozen, with low-rank changes that learn and begin as none (LoRA: Hu et al. 2021).

    They apply where LCM-LoRA's do, and to the first convolution of a network that takes more than it gives.

    Args:
        unet: changed in place.
        rank: of every change.
    """
    unet.requires_grad_(False)
    concat = unet.config.in_channels > unet.config.out_channels
    targets = [*LORA_TARGETS, "conv_in"] if concat else list(LORA_TARGETS)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights="gaussian"))
    return unet


def save_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the changes of :func:`low_rank` alone, as :func:`with_lora` and stock pipelines read them."""
    state = {name: value.contiguous() for name, value in get_peft_model_state_dict(unet).items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state)


def with_lora(unet: UNet2DConditionModel, folder: Path) -> UNet2DConditionModel:
    """A copy of a U-Net with the low-rank changes in ``folder`` added to its weights; both of LoRA's public layouts.

    Raises:
        ImportError: ``peft``, which knows how, is not installed.
    """
    state, alphas = StableDiffusionPipeline.lora_state_dict(folder, unet_config=unet.config, use_safetensors=True)
    changed = copy.deepcopy(unet)
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, changed)
    changed.fuse_lora()
    changed.unload_lora()
    return changed


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Token ids padded to the model's length, int64, shape (B, L)."""
    given = tokenizer(
        prompts,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    return given.input_ids


def embed(text_encoder: CLIPTextModel, tokens: Tensor) -> Tensor:
    """Last hidden states, shape (B, L, K)."""
    return text_encoder(tokens).last_hidden_state


def embed_prompts(components: Components, prompts: list[str], negative: str = "") -> Text:
    """Prompts and what guidance leads away from, embedded, without gradients."""
    device = next(components.text_encoder.parameters()).device
    tokens = tokenize(components.tokenizer, [*prompts, negative]).to(device)
    with torch.no_grad():
        hidden = embed(components.text_encoder, tokens)
    return Text(prompt=hidden[:-1], empty=hidden[-1:])
