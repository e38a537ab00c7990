"""Terra on disk: pictures, disparity and attributes as flat arrays, rendered once and read by index."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cdd_core.checkpoint import is_recorded, read_json, write_json
from cdd_core.data.terra.attributes import Attributes, encode
from cdd_core.data.terra.edits import edit_of
from cdd_core.data.terra.render import Terra

BLOCK = 256  # scenes rendered by one worker at a time; what a killed run loses at most
TOGETHER = 32  # scenes built at once
GPU_WORKERS = 12  # at most; the random fields of a scene are drawn on the CPU
GPU_WORKER = 2**30  # bytes that each of them takes there
HELD_OUT = 10_000_000  # evaluation takes its scenes from this index on, training from 0 on

ARRAYS = {"image": (np.uint8, 3), "disparity": (np.uint16, 1), "codes": (np.uint8, 4)}


@dataclass(frozen=True)
class TerraStore:
    """Read access to a rendered range of one world.

    Attributes:
        image: uint8, shape (N, 3, S, S).
        disparity: uint16, shape (N, 1, S, S); 65535 is the nearest point.
        codes: uint8, shape (N, 4), see ``attributes.encode``.
    """

    image: np.ndarray
    disparity: np.ndarray
    codes: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> TerraStore:
        """Map a folder that :func:`render_store` has finished.

        Raises:
            FileNotFoundError: the folder holds no store.
        """
        if not (folder / "store.json").exists():
            raise FileNotFoundError(f"{folder} holds no rendered Terra; `train` renders it when a stage needs it")
        return cls(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS})

    def __len__(self) -> int:
        return len(self.codes)

    def first(self, count: int) -> TerraStore:
        """The first scenes alone."""
        return TerraStore(self.image[:count], self.disparity[:count], self.codes[:count])

    def images(self, rows: np.ndarray) -> Tensor:
        """Pictures in [-1, 1], shape (B, 3, S, S)."""
        return torch.from_numpy(self.image[rows]).float() / 127.5 - 1

    def disparities(self, rows: np.ndarray) -> Tensor:
        """Disparity in [0, 1], shape (B, 1, S, S)."""
        return torch.from_numpy(self.disparity[rows].astype(np.float32)) / 65535

    def attributes(self, rows: np.ndarray) -> Tensor:
        """Attribute codes, int64, shape (B, 4)."""
        return torch.from_numpy(self.codes[rows].astype(np.int64))


def _render_block(
    folder: str, seed: int, size: int, first_index: int, edited: bool, device: str, start: int, stop: int
) -> None:
    """Render rows [start, stop) into the arrays."""
    world = Terra(seed, size, device)
    arrays = {name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r+") for name in ARRAYS}
    for low in range(start, stop, TOGETHER):
        rows = slice(low, min(low + TOGETHER, stop))
        indices = list(range(first_index + rows.start, first_index + rows.stop))
        codes = world.attributes(indices)
        if edited:
            edits = [edit_of(seed, i, Attributes.from_codes(c)) for i, c in zip(indices, codes, strict=True)]
            codes = encode([edit.after for edit in edits])
        drawn = world.render(world.scenes(indices), codes)
        arrays["image"][rows] = (drawn.image * 255).round().byte().cpu().numpy()
        arrays["disparity"][rows] = (drawn.disparity * 65535).round().to(torch.int32).cpu().numpy().astype(np.uint16)
        arrays["codes"][rows] = codes.numpy().astype(np.uint8)
    for array in arrays.values():
        array.flush()


def _render(blocks: dict[int, tuple], workers: int) -> Iterator[int]:
    """Render the blocks and tell each that is done, in worker processes if there is work for more than one.

    Args:
        blocks: by number, what :func:`_render_block` takes.
        workers: processes.
    """
    bar = partial(tqdm, total=len(blocks), desc="rendering Terra", unit="block")
    if min(workers, len(blocks)) <= 1:  # drawn before another process has even started
        for block, rows in bar(blocks.items()):
            _render_block(*rows)
            yield block
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        jobs = {pool.submit(_render_block, *rows): block for block, rows in blocks.items()}
        for job in bar(as_completed(jobs)):
            job.result()
            yield jobs[job]


def render_store(
    folder: Path,
    count: int,
    seed: int,
    size: int,
    first_index: int,
    workers: int,
    edited: bool = False,
    device: str = "cpu",
) -> TerraStore:
    """Render ``count`` scenes from ``first_index`` on into ``folder``; called again, it goes on where it stopped.

    Args:
        folder: of the arrays.
        count, seed, size, first_index: which scenes of which world, and how large.
        workers: processes.
        edited: draw each scene after the change that belongs to it (``terra.edits``).
        device: where to render. A GPU's pictures are a CPU's but for rounding, which may also tip whether a view is
            thought blocked and drawn anew; what is measured on comes from a CPU.

    Raises:
        ValueError: the folder holds another world, or the beginning of one that was rendered on a GPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"count": count, "seed": seed, "size": size, "first_index": first_index}
    if edited:
        identity["edited"] = True
    progress = folder / "progress.json"
    if progress.exists():
        state = read_json(progress)
        if state["identity"] != identity:
            raise ValueError(f"{folder} holds another Terra ({state['identity']}); choose a new folder or delete it")
        done, device = set(state["done"]), drawn_on(folder, device)
    else:
        for name, (dtype, channels) in ARRAYS.items():
            shape = (count, channels) if name == "codes" else (count, channels, size, size)
            np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
        done = set()
    world = (str(folder), seed, size, first_index, edited, device)
    blocks = {b: (*world, b * BLOCK, min((b + 1) * BLOCK, count)) for b in range(-(-count // BLOCK)) if b not in done}
    if blocks and device != "cpu":
        if not torch.cuda.is_available():
            raise ValueError(f"{folder} was begun on a GPU; go on there, or choose a new folder or delete it")
        workers = max(1, min(workers, GPU_WORKERS, torch.cuda.mem_get_info(device)[0] // GPU_WORKER))
    for block in _render(blocks, workers):
        done.add(block)
        write_json(progress, {"identity": identity, "device": torch.device(device).type, "done": sorted(done)})
    if not is_recorded(folder / "store.json", identity):
        write_json(folder / "store.json", identity)
    return TerraStore.open(folder)


def drawn_on(folder: Path, device: str) -> str:
    """Where what the folder holds was rendered, so that the rest is too; ``device`` if it holds nothing yet."""
    if not (folder / "progress.json").exists():
        return device
    kind = read_json(folder / "progress.json").get("device", "cpu")
    return device if kind == torch.device(device).type else kind
