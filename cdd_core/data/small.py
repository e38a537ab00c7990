"""Small, damaged versions of pictures, and what the super-resolution models are shown of them, made once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from cdd_core.checkpoint import digest, is_recorded, read_json, write_json
from cdd_core.data.degrade import degrade
from cdd_core.data.latents import encode
from cdd_core.data.photos import Crops
from cdd_core.data.pictures import Enlarged, enlarged_bytes
from cdd_core.data.store import TerraStore
from cdd_core.models import latents_factor
from cdd_core.seeds import derived_seed
from cdd_core.tasks import UPSCALE

UNDAMAGED = 0.1  # share of pictures that are only made small, as uploads are unless someone asks; the others' strength
# is uniform in (0, 1)
BATCH = 8  # encoded at once; squares may have 512 pixels a side and more
SAVE_EVERY = 100  # batches
VERSION = 4  # of the degradations and of how they are chosen
STREAM = 6  # of the random numbers of a row


class Small(Dataset):
    """Picture k of a set, made small and damaged as (seed, k) says; uint8, (3, S / 4, S / 4).

    Args:
        pictures: clean ones.
        seed: of the degradations.
        strength: one for all; left out, each draws its own.
    """

    def __init__(self, pictures: TerraStore | Crops, seed: int, strength: float | None = None) -> None:
        self.pictures, self.seed, self.strength = pictures, seed, strength

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, row, STREAM))
        strength = self.strength
        if strength is None:
            strength = max(0.0, (float(torch.rand((), generator=generator)) - UNDAMAGED) / (1 - UNDAMAGED))
        clean = self.pictures.images(np.array([row]))[0] / 2 + 0.5
        return (degrade(clean, UPSCALE, strength, generator) * 255).round().byte()


@torch.no_grad()
def cache_shown(
    pictures: TerraStore | Crops, vae: AutoencoderTiny | AutoencoderKL, folder: Path, seed: int, which: str = ""
) -> None:
    """Write small pictures into ``folder/small.npy`` (uint8) and the latents of what the models are shown of them into
    ``folder/shown.npy`` (float16).

    Goes on where it stopped, and begins anew when the encoder is another one, or the pictures or degradations are.

    Args:
        pictures, vae, folder, which: see ``latents.cache_latents``.
        seed: of the degradations.
    """
    identity = {"encoder": digest(vae.encoder), "seed": seed, "count": len(pictures), "pictures": which}
    identity["version"] = VERSION
    record = folder / "shown.json"
    state = read_json(record) if record.is_file() else {}
    start = int(state.pop("rows", 0))
    if state != identity:
        start = 0
        record.unlink(missing_ok=True)  # what it tells of is overwritten
    folder.mkdir(parents=True, exist_ok=True)
    weight, side, count = next(vae.parameters()), pictures.image.shape[-1], len(pictures)
    made = {
        "small": (np.uint8, (count, 3, side // UPSCALE, side // UPSCALE)),
        "shown": (np.float16, (count, 4, side // latents_factor(vae), side // latents_factor(vae))),
    }
    mode = "r+" if start else "w+"
    kept, latents = (
        np.lib.format.open_memmap(folder / f"{name}.npy", mode, dtype, shape) for name, (dtype, shape) in made.items()
    )
    # A generator of its own: a loader takes a number for its workers, and nobody else's randomness shall depend on it.
    workers, own = max(1, (os.cpu_count() or 1) - 1), torch.Generator()
    left = Subset(Small(pictures, seed), range(start, count))
    for small in tqdm(DataLoader(left, BATCH, num_workers=workers, generator=own), desc="degrading", unit="batch"):
        given = encode(vae, (enlarged_bytes(small) * 2 - 1).to(weight.device, weight.dtype))
        rows = slice(start, start + len(small))
        kept[rows], latents[rows] = small.numpy(), given.float().cpu().numpy().astype(np.float16)
        start = rows.stop
        if start // BATCH % SAVE_EVERY == 0 or start == count:
            kept.flush()
            latents.flush()
            write_json(record, {**identity, "rows": start})


def kept_shown(
    pictures: TerraStore | Crops, folder: Path, seed: int, strength: float | None = None, which: str = ""
) -> Enlarged:
    """What the models are shown of these pictures; the small ones are kept in ``folder`` for the next time.

    Args:
        pictures, seed, strength: see :class:`Small`.
        folder: for ``small.npy`` and what it was made of.
        which: identity of the pictures, where their number doesn't say it.
    """
    path, record = folder / "small.npy", folder / "small.json"
    identity = {"seed": seed, "strength": strength, "count": len(pictures), "pictures": which, "version": VERSION}
    if not is_recorded(record, identity):
        found = [small.numpy() for small in tqdm(Small(pictures, seed, strength), "degrading")]
        record.unlink(missing_ok=True)
        np.save(path, np.stack(found))
        write_json(record, identity)
    return Enlarged(np.load(path, mmap_mode="r"))
