"""Terra as the diffusion stages see it: cached latents, tokenised captions, disparity on demand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer

from cdd_core.checkpoint import digest, write_json
from cdd_core.data.store import TerraStore
from cdd_core.data.terra.attributes import Attributes
from cdd_core.data.terra.captions import caption
from cdd_core.data.terra.landforms import LANDFORMS
from cdd_core.data.terra.render import Terra

PHRASINGS = 4  # captions kept for every picture
ENCODE_BATCH = 32


@torch.no_grad()
def encode(vae: AutoencoderTiny | AutoencoderKL, images: Tensor) -> Tensor:
    """Scaled latents of pictures in [-1, 1]; the mode where the encoder is a distribution."""
    given = vae.encode(images)
    latents = given.latents if hasattr(given, "latents") else given.latent_dist.mode()
    return latents * vae.config.scaling_factor


@torch.no_grad()
def decode(vae: AutoencoderTiny | AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures in [0, 1] from scaled latents, (B, 3, H, W), float32."""
    weight = next(vae.parameters())
    pictures = vae.decode((latents / vae.config.scaling_factor).to(weight.device, weight.dtype)).sample
    return (pictures.float() / 2 + 0.5).clamp(0, 1)


def cache_latents(store: TerraStore, vae: AutoencoderTiny, folder: Path) -> None:
    """Encode every picture of the store into ``folder/latents.npy`` (float16).

    Goes on where it stopped, and begins anew when the encoder is another one.
    """
    target, progress = folder / "latents.npy", folder / "latents.json"
    folder.mkdir(parents=True, exist_ok=True)
    device, encoder = next(vae.parameters()).device, digest(vae.encoder)
    state = json.loads(progress.read_text()) if progress.exists() else {}
    start = int(state["rows"]) if state.get("encoder") == encoder else 0
    if start == 0:
        side = store.image.shape[-1] // 4
        np.lib.format.open_memmap(target, mode="w+", dtype=np.float16, shape=(len(store), 4, side, side))
    latents = np.load(target, mmap_mode="r+")
    for low in tqdm(range(start, len(store), ENCODE_BATCH), desc="encoding", unit="batch"):
        rows = np.arange(low, min(low + ENCODE_BATCH, len(store)))
        images = store.images(rows).to(device, memory_format=torch.channels_last)
        latents[rows] = encode(vae, images).cpu().numpy().astype(np.float16)
        if low // ENCODE_BATCH % 50 == 49:
            latents.flush()
            write_json(progress, {"encoder": encoder, "rows": int(rows[-1]) + 1})
    latents.flush()
    write_json(progress, {"encoder": encoder, "rows": len(store)})


def cache_tokens(store: TerraStore, world: Terra, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write :data:`PHRASINGS` tokenised captions for every picture to ``folder/tokens.npy``, (N, P, L) int16."""
    if (folder / "tokens.npy").exists():
        return
    names = list(LANDFORMS)
    texts: list[str] = []
    for start in tqdm(range(0, len(store), 1000), desc="captions", unit="k"):
        indices = list(range(start, min(start + 1000, len(store))))
        for index, kind in zip(indices, world.landforms(indices).tolist(), strict=True):
            rng = np.random.default_rng((world.seed, index, 1))
            attributes = Attributes.from_codes(store.codes[index].tolist())
            texts.extend(caption(attributes, names[kind], rng) for _ in range(PHRASINGS))
    length = tokenizer.model_max_length
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="np").input_ids
    np.save(folder / "tokens.npy", ids.reshape(len(store), PHRASINGS, length).astype(np.int16))


@dataclass
class LatentSet:
    """What the diffusion stages read; all of it on one device.

    Attributes:
        latents: float16, shape (N, 4, H, W).
        tokens: int16, shape (N, P, L).
        empty: tokens of the empty prompt, shape (L,).
        store: the pictures behind the latents, for their disparity.
    """

    latents: Tensor
    tokens: Tensor
    empty: Tensor
    store: TerraStore

    @classmethod
    def open(cls, folder: Path, store: TerraStore, tokenizer: CLIPTokenizer, device: torch.device) -> LatentSet:
        """Read what :func:`cache_latents` and :func:`cache_tokens` wrote."""
        empty = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
        return cls(
            torch.from_numpy(np.load(folder / "latents.npy")).to(device),
            torch.from_numpy(np.load(folder / "tokens.npy")).to(device),
            empty.input_ids[0].to(device),
            store,
        )

    def __len__(self) -> int:
        return len(self.latents)

    def x(self, rows: Tensor) -> Tensor:
        """Clean latents in float32, shape (B, 4, H, W)."""
        return self.latents[rows].float()

    def prompts(self, rows: Tensor, phrasing: Tensor, dropped: Tensor) -> Tensor:
        """Token ids, the empty prompt where ``dropped``; int64, shape (B, L)."""
        ids = self.tokens[rows, phrasing].long()
        return torch.where(dropped[:, None], self.empty, ids)

    def disparity(self, rows: Tensor) -> Tensor:
        """Disparity in [0, 1], shape (B, 1, S, S)."""
        return self.store.disparities(rows.cpu().numpy()).to(rows.device)
