"""Real photographs as small squares: what a world of rendered landscapes can't teach."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cdd_core.checkpoint import is_recorded, write_json
from cdd_core.images import ImageError, open_image

KINDS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
HELD_OUT_SHARE = 4  # every fourth photograph, by the hash of its name, is for evaluation
FINEST = 2  # pixels of a photograph, at the least, that make one of a square
RECOLOURED = 0.5  # share of training's squares with other colours: a few dozen photographs show few
DIMMEST = 0.6  # factor of such a square's channel, at the least
WORTH_PROCESSES = 2000  # squares from which on photographs are cut side by side


@dataclass(frozen=True)
class Crops:
    """Squares cut from photographs.

    Attributes:
        image: uint8, shape (N, 3, S, S).
        identity: changes with the photographs and with how they were cut.
        each: how many of them, one after the other, are of one photograph.
    """

    image: np.ndarray
    identity: str = ""
    each: int = 1

    def __len__(self) -> int:
        return len(self.image)

    def images(self, rows: np.ndarray) -> Tensor:
        """Pictures in [-1, 1], shape (B, 3, S, S)."""
        return torch.from_numpy(self.image[rows]).float() / 127.5 - 1


def photographs(folder: Path, held_out: bool) -> list[Path]:
    """The photographs below a folder that training, or evaluation, may see; the choice hangs on a file's name alone.

    Raises:
        FileNotFoundError: there are none; the message says what to do.
    """
    found = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in KINDS and path.is_file() and not path.is_symlink()
    )
    chosen = [path for path in found if (_number(path.name) % HELD_OUT_SHARE == 0) == held_out]
    if not chosen:
        raise FileNotFoundError(f"{folder} holds no photographs; put some there (see docs/photos.md)")
    return chosen


def cut_crops(folder: Path, out: Path, count: int, size: int, held_out: bool = False) -> Crops:
    """About ``count`` squares from the photographs below ``folder``, kept in ``out`` and read from there next time.

    Every photograph gives equally many, at scales from half its own up to its whole height, each scale as likely as
    its double. Pixel by pixel a camera's pictures are soft and JPEG's are damaged: no truth to learn from. Smaller
    photographs give what they have. Pictures that can't be read, or are too small, are left out. Half of training's
    squares have their channels in another order and dimmed: how things look is learnt from shapes then, not by heart.

    Raises:
        FileNotFoundError: there are no photographs, or none large enough.
        ValueError: not even one square is asked for.
    """
    if count < 1:
        raise ValueError(f"{count} squares of photographs can't be cut; ask for one at the least")
    files = photographs(folder, held_out)
    each = -(-count // len(files))
    known = [[path.name, path.stat().st_size] for path in files]
    identity = {"files": known, "count": count, "size": size, "held_out": held_out, "finest": FINEST}
    if not held_out:
        identity |= {"recoloured": RECOLOURED, "dimmest": DIMMEST}
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    if is_recorded(out / "crops.json", identity):
        return Crops(np.load(out / "crops.npy", mmap_mode="r"), name, each)
    out.mkdir(parents=True, exist_ok=True)
    half_done, done = out / "half.partial", 0  # whoever reads an older file meanwhile keeps it
    cut = np.lib.format.open_memmap(half_done, "w+", np.uint8, (each * len(files), 3, size, size))
    squares_of = partial(_squares_of, each, size, 0.0 if held_out else RECOLOURED)
    for squares in tqdm(_side_by_side(squares_of, files, count), total=len(files), desc="photographs", unit="photo"):
        if squares is not None:
            cut[done : done + each], done = squares, done + each
    if not done:
        half_done.unlink()
        raise FileNotFoundError(f"no photograph in {folder} has {size} pixels a side; put larger ones there")
    with (whole := out / "whole.partial").open("wb") as file:
        np.save(file, cut[:done])
    half_done.unlink()
    (out / "crops.json").unlink(missing_ok=True)  # killed here, the next command cuts anew
    whole.replace(out / "crops.npy")
    write_json(out / "crops.json", identity)
    return Crops(np.load(out / "crops.npy", mmap_mode="r"), name, each)


def _side_by_side(
    squares_of: Callable[[Path], np.ndarray | None], files: list[Path], count: int
) -> Iterator[np.ndarray | None]:
    """``squares_of`` every file, in their order, by several processes if ``count`` squares are worth it."""
    if count < WORTH_PROCESSES:  # done before another process has even started
        yield from map(squares_of, files)
        return
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(files)), get_context("spawn")) as pool:
        yield from pool.map(squares_of, files)


def _squares_of(count: int, size: int, recoloured: float, path: Path) -> np.ndarray | None:
    """Squares of the photograph in this file; None if it can't be read, or is too small."""
    try:
        picture = open_image(path).convert("RGB")
    except (ImageError, ValueError):
        return None
    if min(picture.size) < size:
        return None
    return _cut(picture, count, size, recoloured, np.random.default_rng(_number(path.name)))


def _cut(picture: Image.Image, count: int, size: int, recoloured: float, rng: np.random.Generator) -> np.ndarray:
    """Squares of one photograph, mirrored half of the time; (count, 3, size, size)."""
    crops = np.empty((count, 3, size, size), np.uint8)
    least, most = min(FINEST * size, min(picture.size)), min(picture.size)
    for k in range(count):
        side = round(np.exp(rng.uniform(np.log(least), np.log(most))))
        left, top = (int(rng.integers(length - side + 1)) for length in picture.size)
        square = picture.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        pixels = np.asarray(square).transpose(2, 0, 1)
        crops[k] = pixels[..., ::-1] if rng.random() < 0.5 else pixels
        if rng.random() < recoloured:
            crops[k] = crops[k, rng.permutation(3)] * rng.uniform(DIMMEST, 1, (3, 1, 1))
    return crops


def _number(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
