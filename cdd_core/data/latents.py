"""Terra as the diffusion stages see it: cached latents, tokenised captions, disparity on demand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTokenizer

from cdd_core.checkpoint import digest, is_recorded, read_json, write_json
from cdd_core.data.augment import augment_depth
from cdd_core.data.photos import Crops
from cdd_core.data.pictures import Enlarged, Joined, Pictures
from cdd_core.data.store import TerraStore
from cdd_core.data.terra.attributes import Attributes
from cdd_core.data.terra.captions import caption
from cdd_core.data.terra.edits import edit_of
from cdd_core.data.terra.landforms import LANDFORMS
from cdd_core.data.terra.render import Terra
from cdd_core.models import embed
from cdd_core.tasks import POCKET_GAMMA, depth_condition

PHRASINGS = 4  # captions, or instructions, kept for every picture
INSTRUCTIONS = 5  # stream of the random numbers that choose the words of instructions
ENCODE_BATCH = 32
PREVIEWED = 16


@torch.no_grad()
def encode(vae: AutoencoderTiny | AutoencoderKL, images: Tensor) -> Tensor:
    """Scaled latents of pictures in [-1, 1]; the mode where the encoder is a distribution."""
    given = vae.encode(images)
    latents = given.latents if hasattr(given, "latents") else given.latent_dist.mode()
    return latents * vae.config.scaling_factor


@torch.no_grad()
def decode(vae: AutoencoderTiny | AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures in [0, 1] from scaled latents on the device that decodes, (B, 3, H, W), float32."""
    pictures = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample
    return (pictures.float() / 2 + 0.5).clamp(0, 1)


def cache_latents(store: TerraStore | Crops, vae: AutoencoderTiny, folder: Path, which: str = "") -> None:
    """Encode every picture of the store into ``folder/latents.npy`` (float16).

    Goes on where it stopped, and begins anew when the encoder is another one, or the pictures are.

    Args:
        store: the pictures.
        vae: encodes them.
        folder: of the latents.
        which: says which pictures these are, where the same folder may hold others tomorrow.
    """
    target, progress = folder / "latents.npy", folder / "latents.json"
    folder.mkdir(parents=True, exist_ok=True)
    device, encoder = next(vae.parameters()).device, digest(vae.encoder)
    state = read_json(progress) if progress.exists() else {}
    same = {"encoder": encoder, **({"pictures": which} if which else {})}
    start = int(state.pop("rows", 0))
    if state != same:
        start = 0
    if start == 0:
        progress.unlink(missing_ok=True)  # what it tells of is overwritten
        side = store.image.shape[-1] // 4
        np.lib.format.open_memmap(target, mode="w+", dtype=np.float16, shape=(len(store), 4, side, side))
    latents = np.load(target, mmap_mode="r+")
    for low in tqdm(range(start, len(store), ENCODE_BATCH), desc="encoding", unit="batch"):
        rows = np.arange(low, min(low + ENCODE_BATCH, len(store)))
        images = store.images(rows).to(device, memory_format=torch.channels_last)
        latents[rows] = encode(vae, images).cpu().numpy().astype(np.float16)
        if low // ENCODE_BATCH % 50 == 49:
            latents.flush()
            write_json(progress, {**same, "rows": int(rows[-1]) + 1})
    latents.flush()
    if not is_recorded(progress, whole := {**same, "rows": len(store)}):
        write_json(progress, whole)


def cache_tokens(store: TerraStore, world: Terra, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write :data:`PHRASINGS` tokenised captions for every picture into ``folder``, (N, P, L) int16."""
    names = list(LANDFORMS)

    def texts(index: int, kind: int) -> list[str]:
        rng = np.random.default_rng((world.seed, index, 1))
        attributes = Attributes.from_codes(store.codes[index].tolist())
        return [caption(attributes, names[kind], rng) for _ in range(PHRASINGS)]

    _cache_texts(_tokens_file(folder, tokenizer), len(store), world, tokenizer, texts)


def cache_instructions(count: int, world: Terra, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Likewise for the changes of the first ``count`` scenes, and then for the same changes undone."""
    before = {}

    def texts(row: int, _: int) -> list[str]:
        index = row % count
        edit = edit_of(world.seed, index, before[index])
        rng = np.random.default_rng((world.seed, row, INSTRUCTIONS))
        return [(edit if row < count else edit.reversed).ask(rng) for _ in range(PHRASINGS)]

    codes = world.attributes(list(range(count))).tolist()
    before.update({index: Attributes.from_codes(code) for index, code in enumerate(codes)})
    _cache_texts(_tokens_file(folder, tokenizer), 2 * count, world, tokenizer, texts)


def _cache_texts(
    path: Path, count: int, world: Terra, tokenizer: CLIPTokenizer, texts: Callable[[int, int], list[str]]
) -> None:
    """Tokenise ``texts(row, landform)`` of every row, unless it was done before and they would say the same."""
    some = list(range(0, count, max(1, count // 64)))
    said = [text for row, kind in zip(some, world.landforms(some).tolist(), strict=True) for text in texts(row, kind)]
    identity = {"count": count, "texts": hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]}
    record = path.with_suffix(".json")
    if path.exists() and is_recorded(record, identity):
        return
    record.unlink(missing_ok=True)
    length, ids = tokenizer.model_max_length, []
    for start in tqdm(range(0, count, 1000), desc="words", unit="k"):
        rows = list(range(start, min(start + 1000, count)))
        said = [
            text for row, kind in zip(rows, world.landforms(rows).tolist(), strict=True) for text in texts(row, kind)
        ]
        given = tokenizer(said, padding="max_length", truncation=True, max_length=length, return_tensors="np")
        ids.append(given.input_ids.reshape(len(rows), PHRASINGS, length).astype(np.int16))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.concatenate(ids))
    write_json(record, identity)


@dataclass
class LatentSet:
    """What the diffusion stages read; all of it on one device.

    Attributes:
        latents: float16, shape (N, 4, H, W).
        tokens: int16, shape (N, P, L).
        empty: tokens of the empty prompt, shape (L,).
        store: the pictures behind the latents, for their disparity.
        given: latents of the pictures that are to be changed, float16, (N, 4, H, W); None where depth is given.
        pictures: the same as pixels, for an adapter that takes those.
        scaling: of the autoencoder; latents that are a condition are not scaled by it, as InstructPix2Pix has it.
        gamma: exponent of the depth conditions, see ``tasks.depth_condition``.

    Raises:
        ValueError: these are not as many as each other, so some rows belong to other pictures.
    """

    latents: Tensor
    tokens: Tensor
    empty: Tensor
    store: TerraStore
    given: Tensor | None = None
    pictures: Pictures | None = None
    scaling: float = 1.0
    gamma: float = POCKET_GAMMA

    def __post_init__(self) -> None:
        lengths = {len(found) for found in (self.latents, self.tokens, self.given, self.pictures) if found is not None}
        if len(lengths) > 1:
            raise ValueError(
                f"latents, texts and given pictures are not of the same number ({sorted(lengths)}); delete the cached "
                f"latents, which belong to other pictures, and start again"
            )

    @classmethod
    def open(cls, folder: Path, store: TerraStore, tokenizer: CLIPTokenizer, device: torch.device) -> LatentSet:
        """Read what :func:`cache_latents` and :func:`cache_tokens` wrote."""
        latents = torch.from_numpy(np.load(folder / "latents.npy")).to(device)
        return cls(latents, _read_tokens(folder, tokenizer, device), _empty_tokens(tokenizer, device), store)

    @classmethod
    def open_pairs(
        cls,
        before: Path,
        after: Path,
        store: TerraStore,
        edited: TerraStore,
        tokenizer: CLIPTokenizer,
        device: torch.device,
        scaling: float,
    ) -> LatentSet:
        """Every change and its way back, from the latents in two folders; instructions lie in ``after``."""
        second = torch.from_numpy(np.load(after / "latents.npy")).to(device)
        first = torch.from_numpy(np.load(before / "latents.npy")[: len(second)]).to(device)
        latents, given = torch.cat([second, first]), torch.cat([first, second])
        pictures = Joined((store.first(len(first)), edited))
        empty = _empty_tokens(tokenizer, device)
        return cls(latents, _read_tokens(after, tokenizer, device), empty, store, given, pictures, scaling)

    @classmethod
    def open_shown(
        cls, folders: list[Path], store: TerraStore, tokenizer: CLIPTokenizer, device: torch.device, scaling: float
    ) -> LatentSet:
        """Clean pictures and how super-resolution is shown them, from several folders; there is nothing to say."""
        clean, shown, small = [], [], []
        for folder in folders:
            small.append(Enlarged(np.load(folder / "small.npy", mmap_mode="r")))
            shown.append(torch.from_numpy(np.load(folder / "shown.npy")).to(device))
            clean.append(torch.from_numpy(np.load(folder / "latents.npy")[: len(shown[-1])]).to(device))
        latents, empty = torch.cat(clean), _empty_tokens(tokenizer, device)
        tokens = empty.to(torch.int16)[None, None].expand(len(latents), 1, -1)
        return cls(latents, tokens, empty, store, torch.cat(shown), Joined(tuple(small)), scaling)

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def learnt(self) -> int:
        """How many rows are learnt from. The last are kept to be looked at on the way: sixteen of a large set, of a
        small one an eighth, and none of fewer than eight."""
        return len(self) - min(PREVIEWED, len(self) // 8)

    def x(self, rows: Tensor) -> Tensor:
        """Clean latents in float32, shape (B, 4, H, W)."""
        return self.latents[rows.to(self.latents.device)].float().to(rows.device)

    def embedded(self, rows: Tensor, phrasing: Tensor, dropped: Tensor, text_encoder: nn.Module) -> Tensor:
        """Embedded texts, the empty prompt where ``dropped``; (B, L, K)."""
        return embed(text_encoder, self.prompts(rows, phrasing, dropped))

    def nothing(self, text_encoder: nn.Module) -> Tensor:
        """The embedded empty prompt, (1, L, K)."""
        return embed(text_encoder, self.empty[None])

    def prompts(self, rows: Tensor, phrasing: Tensor, dropped: Tensor) -> Tensor:
        """Token ids, the empty prompt where ``dropped``; int64, shape (B, L)."""
        ids = self.tokens[rows, phrasing].long()
        return torch.where(dropped[:, None], self.empty, ids)

    def condition(self, rows: Tensor, augment: Tensor | None = None, pixels: bool = False) -> Tensor:
        """What the adapter takes: latents of the given pictures, or depth (B, 3, S, S), augmented if draws are given.

        Args:
            rows: shape (B,).
            augment: uniform draws (B, DRAWS), see ``augment.augment_depth``.
            pixels: the given pictures themselves instead of their latents, in [0, 1], (B, 3, S, S).
        """
        if pixels and self.pictures is not None:
            return (self.pictures.images(rows.cpu().numpy()) / 2 + 0.5).to(rows.device)
        if self.given is not None:
            return self.given[rows.to(self.given.device)].float().to(rows.device) / self.scaling
        disparity = self.store.disparities(rows.cpu().numpy()).to(rows.device)
        plain = depth_condition(disparity, self.gamma)
        return plain if augment is None else augment_depth(plain[:, :1], augment).expand(-1, 3, -1, -1)


def _tokens_file(folder: Path, tokenizer: CLIPTokenizer) -> Path:
    """Numbers mean words by one vocabulary only, so each has a file of its own."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return folder / f"tokens-{hashlib.sha256(vocabulary.encode()).hexdigest()[:8]}.npy"


def _read_tokens(folder: Path, tokenizer: CLIPTokenizer, device: torch.device) -> Tensor:
    return torch.from_numpy(np.load(_tokens_file(folder, tokenizer))).to(device)


def _empty_tokens(tokenizer: CLIPTokenizer, device: torch.device) -> Tensor:
    given = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
    return given.input_ids[0].to(device)
