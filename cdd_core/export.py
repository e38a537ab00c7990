"""From a training run to folders that stock diffusers loads: fp16 safetensors in shards, with a card beside them."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from torch import nn

from cdd_core.cards import ONCE, Card
from cdd_core.checkpoint import read_json, write_json
from cdd_core.config import CddConfig
from cdd_core.models import LORA, Components
from cdd_core.provenance import SHIPPED_RECORD
from cdd_core.tasks import TASKS

SHARD, LARGE_SHARD = "9MB", "2GB"  # a plain push to a Space takes files of 10 MB
SMALL = 100e6  # bytes up to which a network may lie in a Space, as the pocket family's do
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}


def save_half(module: nn.Module, folder: Path) -> None:
    """Write a diffusers module in fp16; the module in memory keeps its precision."""
    half = copy.deepcopy(module).to("cpu", torch.float16)
    size = sum(value.nbytes for value in half.state_dict().values())
    half.save_pretrained(folder, max_shard_size=SHARD if size <= SMALL else LARGE_SHARD)


def export_base(components: Components, folder: Path, provenance: dict[str, object]) -> None:
    """Write the shared parts as a ``StableDiffusionPipeline`` folder; the text encoder stays in fp32."""
    save_half(components.vae, folder / "vae")
    _drop_derived(folder / "vae" / "config.json")
    save_half(components.unet, folder / "unet")
    copy.deepcopy(components.text_encoder).cpu().float().save_pretrained(folder / "text_encoder")
    components.tokenizer.save_pretrained(folder / "tokenizer")
    DDIMScheduler.from_config(components.scheduler).save_pretrained(folder / "scheduler")
    index = {**MODEL_INDEX, "vae": ["diffusers", type(components.vae).__name__]}
    write_json(folder / "model_index.json", index)
    write_json(folder / SHIPPED_RECORD, provenance)


def _drop_derived(config: Path) -> None:
    """Leave out what AutoencoderTiny writes but computes itself, and would complain of at every load."""
    content = read_json(config)
    if content.get("_class_name") == "AutoencoderTiny":
        content.pop("block_out_channels", None)
        write_json(config, content)


def export_adapter(parts: dict[str, nn.Module], lora: Path | None, card: Card, folder: Path) -> None:
    """Write a task's own networks (``controlnet``, and ``unet`` where it was trained) and their card.

    Args:
        parts: by name.
        lora: folder of low-rank changes, if there are any.
        card: see :class:`Card`.
        folder: where to.
    """
    for name, module in parts.items():
        save_half(module, folder / name)
    if lora is not None:
        shutil.copytree(lora, folder / LORA, dirs_exist_ok=True)
    card.write(folder)


def undistilled_card(
    task: str, provenance: dict[str, object], steps: int, gamma: float, guidance: float, image_guidance: float = 1.0
) -> Card:
    """The card of an ordinary diffusion model: every timestep known, DDIM."""
    return Card(
        task=task,
        variant="undistilled",
        base="../../base",
        adapter=TASKS[task].adapter,
        stages=steps,
        samplers={0: "ddim"},
        guidance=guidance,
        condition_gamma=gamma,
        steps=50,
        provenance=provenance,
        image_guidance=image_guidance,
    )


def distilled_card(
    config: CddConfig,
    provenance: dict[str, object],
    gamma: float,
    adapter: str = "controlnet",
    sizes: tuple[int, ...] = (),
) -> Card:
    """The card of a student: its N stages, its samplers, guidance baked in.

    Args:
        config: its recipe.
        provenance, gamma: see :class:`Card`.
        adapter: ``controlnet`` or ``concat``, whichever it has.
        sizes: its teacher's, see :class:`Card`.
    """
    return Card(
        task=config.task,
        variant="distilled",
        base="../../base",
        adapter=ONCE if config.adapter_once else adapter,
        stages=config.stages,
        samplers=dict(config.samplers),
        renoise_from=config.renoise_from,
        noise_scale=config.noise_scale,
        guidance=1.0,
        condition_gamma=gamma,
        steps=min(4, config.stages),
        provenance=provenance,
        sizes=sizes,
        unet="../undistilled/unet" if config.scope == "lora" and adapter == "concat" else "",
    )
