"""People's own pictures as a training set: latents, captions and conditions, made once and kept on disk.

Everything lies in flat files that grow row by row, so a killed run goes on where it stopped and a stream of unknown
length can be taken in.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from cdd_core.checkpoint import digest, read_json, write_json
from cdd_core.data.latents import LatentSet, encode
from cdd_core.data.photos import Crops
from cdd_core.data.pictures import Enlarged, Pictures
from cdd_core.data.small import cache_shown
from cdd_core.data.sources import Example, Source
from cdd_core.estimator import DepthEstimator
from cdd_core.images import ImageError, to_picture
from cdd_core.models import Components, embed_prompts, latents_factor
from cdd_core.schedule import per_sample
from cdd_core.tasks import EDGES

log = logging.getLogger(__name__)

PROGRESS = "own.json"
BATCH = 8


@dataclass(frozen=True)
class Rows:
    """A flat file of equal rows.

    Attributes:
        path, dtype, shape: of the file and of one row.
    """

    path: Path
    dtype: type[np.generic]
    shape: tuple[int, ...]

    def cut(self, count: int) -> None:
        """Forget whatever was written after row ``count``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.truncate(count * int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize)

    def append(self, rows: np.ndarray) -> None:
        """Add rows of this shape."""
        with self.path.open("ab") as file:
            file.write(np.ascontiguousarray(rows, self.dtype).tobytes())

    def read(self, count: int) -> np.ndarray:
        """The first rows, mapped; a set may be larger than memory."""
        return np.memmap(self.path, self.dtype, "r", shape=(count, *self.shape))

    def tensor(self, count: int) -> Tensor:
        """Likewise, of rows of float16."""
        size = count * int(np.prod(self.shape))
        return torch.from_file(str(self.path), shared=True, size=size, dtype=torch.float16).view(count, *self.shape)


@dataclass(frozen=True)
class OwnPictures(Crops):
    """The pictures behind the latents.

    Attributes:
        image: uint8, shape (N, 3, S, S).
        disparity: uint8, shape (N, 1, S, S), near bright; None if no depth was estimated.
    """

    disparity: np.ndarray | None = None

    def disparities(self, rows: np.ndarray) -> Tensor:
        """Disparity in [0, 1], shape (B, 1, S, S).

        Raises:
            ValueError: none was estimated.
        """
        if self.disparity is None:
            raise ValueError("no depth was estimated for these pictures; take them in again with a depth estimator")
        return torch.from_numpy(self.disparity[rows]).float() / 255


@dataclass
class OwnSet(LatentSet):
    """What the diffusion stages read of people's own pictures.

    Attributes:
        task: whose conditions are made of the pictures.
        texts: embedded captions, float16, shape (N, L, K), on disk.
        no_text: the embedded empty prompt, shape (1, L, K).
    """

    task: str = "depth"
    texts: np.ndarray | None = None
    no_text: Tensor | None = None

    def condition(self, rows: Tensor, augment: Tensor | None = None, pixels: bool = False) -> Tensor:
        """See :meth:`LatentSet.condition`; or the edges of the pictures, (B, 3, S, S) in [0, 1]."""
        if self.task in EDGES:
            pictures = (self.store.images(rows.cpu().numpy()) / 2 + 0.5).to(rows.device)
            with torch.autocast(rows.device.type, enabled=False):  # thresholds ask for exact gradients
                return EDGES[self.task](pictures)
        return super().condition(rows, augment, pixels)

    def embedded(self, rows: Tensor, phrasing: Tensor, dropped: Tensor, text_encoder: nn.Module) -> Tensor:
        """Embedded captions from disk, the empty prompt where ``dropped``."""
        told = torch.from_numpy(np.array(self.texts[rows.cpu().numpy()])).float().to(rows.device)
        return torch.where(per_sample(dropped, told), self.nothing(text_encoder), told)

    def nothing(self, text_encoder: nn.Module) -> Tensor:
        """The embedded empty prompt."""
        return self.no_text.float().to(self.empty.device)


def take_in(
    source: Source, components: Components, folder: Path, size: int, estimator: DepthEstimator | None, limit: int
) -> int:
    """Encode examples into ``folder``; called again, it goes on where it stopped. Returns how many there are.

    Args:
        source: examples; those that can't be read are left out.
        components: of the family that will be trained; their autoencoder and text encoder are used.
        folder: of the training set.
        size: pixels a side; the square in the middle of each picture is taken.
        estimator: for the depth task.
        limit: most examples to read.

    Raises:
        ValueError: the folder was made with another autoencoder, text encoder or size, or of other pictures, or
            nothing could be read.
    """
    identity = {**_encoders(components), "size": size, "depth": estimator is not None}
    if source.paired:
        identity["pairs"] = True
    state = _state(folder, identity, source)
    files = _files(folder, components, identity)
    for file in files.values():
        file.cut(state["rows"])
    wanted = islice(source.examples(state["read"]), max(0, limit - state["read"]))
    bar = tqdm(desc="taking in", unit="picture", initial=state["read"])
    while examples := list(islice(wanted, BATCH)):
        sound, depths = [taken for e in examples if (taken := _taken(e, source.paired, size)) is not None], None
        if sound and estimator is not None:
            sound, depths = _with_depth(sound, estimator)
        if sound:
            _append(files, sound, components, depths)
        state["read"] += len(examples)
        state["rows"] += len(sound)
        write_json(folder / PROGRESS, {**identity, **state, "source": source.identity(state["read"])})
        bar.update(len(examples))
    if not state["rows"]:
        raise ValueError("none of these pictures could be read")
    return state["rows"]


def open_own(folder: Path, components: Components, task: str, gamma: float, device: torch.device) -> OwnSet:
    """Read what :func:`take_in` wrote.

    Raises:
        FileNotFoundError: the folder holds no training set.
        ValueError: it was made with another autoencoder or text encoder, or holds no pairs to learn editing from.
    """
    if not (folder / PROGRESS).is_file():
        raise FileNotFoundError(f"{folder} holds no training set; make one with: python -m cdd_core take-in")
    state = read_json(folder / PROGRESS)
    if any(state.get(name) != value for name, value in _encoders(components).items()):
        raise ValueError(f"the set in {folder} was made with another autoencoder or text encoder; make it anew")
    if task == "edit" and not state.get("pairs"):
        raise ValueError(
            f"the training set in {folder} has no pictures before and after a change; take in a folder whose "
            f"metadata.jsonl names both (docs/distil-your-own.md)"
        )
    count = state["rows"]
    files = _files(folder, components, state)
    read = {name: file.read(count) for name, file in files.items()}
    length, store = components.tokenizer.model_max_length, OwnPictures(read["image"], disparity=read.get("disparity"))
    given: Tensor | None = None
    pictures: Pictures | None = None
    if task == "edit":
        given, pictures = files["given"].tensor(count), Crops(read["before"])
    if task == "upscale":
        cache_shown(store, components.vae, folder, seed=0, which=str((folder / "image.bin").stat().st_mtime_ns))
        given = torch.from_numpy(np.load(folder / "shown.npy", "c"))
        pictures = Enlarged(np.load(folder / "small.npy", "r"))
    return OwnSet(
        latents=files["latents"].tensor(count),
        tokens=torch.zeros(count, 1, length, dtype=torch.int16),
        empty=torch.zeros(length, dtype=torch.long, device=device),
        store=store,
        given=given,
        pictures=pictures,
        scaling=float(components.vae.config.scaling_factor),
        task=task,
        gamma=gamma,
        texts=read["texts"],
        no_text=embed_prompts(components, []).empty,
    )


def _encoders(components: Components) -> dict[str, str]:
    """Whose latents and embedded captions a set holds."""
    return {"encoder": digest(components.vae.encoder), "text_encoder": digest(components.text_encoder)}


def _files(folder: Path, components: Components, identity: dict[str, object]) -> dict[str, Rows]:
    """The flat files of a training set."""
    size = int(identity["size"])
    side = size // latents_factor(components.vae)
    context, length = components.text_encoder.config.hidden_size, components.tokenizer.model_max_length
    latents, picture = (components.unet.config.out_channels, side, side), (3, size, size)
    rows = {
        "latents": (np.float16, latents),
        "texts": (np.float16, (length, context)),
        "image": (np.uint8, picture),
    }
    if identity["depth"]:
        rows["disparity"] = (np.uint8, (1, size, size))
    if identity.get("pairs"):
        rows |= {"given": (np.float16, latents), "before": (np.uint8, picture)}
    return {name: Rows(folder / f"{name}.bin", dtype, shape) for name, (dtype, shape) in rows.items()}


@dataclass(frozen=True)
class Taken:
    """An example as it will be kept; pictures in [0, 1], shape (1, 3, S, S)."""

    name: str
    caption: str
    picture: Tensor
    before: Tensor | None


def _taken(example: Example, paired: bool, size: int) -> Taken | None:
    """None if a picture can't be used, or lacks its other half: that one is left out, and the log names it."""
    wanted = [example.picture, example.before] if paired else [example.picture]
    try:
        if None in wanted:
            raise ImageError("it can't be read")
        pictures = [to_picture(picture, size) for picture in wanted]
    except ImageError as error:
        log.warning("%s is left out: %s", example.name, error)
        return None
    return Taken(example.name, example.caption, pictures[0], pictures[1] if paired else None)


def _append(files: dict[str, Rows], examples: list[Taken], components: Components, depths: Tensor | None) -> None:
    vae = components.vae

    def keep(found: list[Tensor], latents: str, image: str) -> None:
        pictures = torch.cat(found)
        encoded = encode(vae, (pictures * 2 - 1).to(next(vae.parameters()).device, vae.dtype))
        files[latents].append(encoded.float().cpu().numpy())
        files[image].append((pictures * 255).round().byte().numpy())

    keep([e.picture for e in examples], "latents", "image")
    files["texts"].append(embed_prompts(components, [e.caption for e in examples]).prompt.float().cpu().numpy())
    if "given" in files:
        keep([e.before for e in examples], "given", "before")
    if depths is not None:
        files["disparity"].append((depths * 255).round().byte().numpy())


def _with_depth(examples: list[Taken], estimator: DepthEstimator) -> tuple[list[Taken], Tensor | None]:
    """Those in which any depth is found, and their disparities (B, 1, S, S); a flat picture costs itself alone."""
    try:
        return examples, estimator(torch.cat([example.picture for example in examples]))
    except ImageError:
        if len(examples) == 1:
            log.warning("%s is left out: no depth is found in it", examples[0].name)
            return [], None
    found = [_with_depth([example], estimator) for example in examples]
    deep = [depth for _, depth in found if depth is not None]
    return [each for kept, _ in found for each in kept], torch.cat(deep) if deep else None


def _state(folder: Path, identity: dict[str, object], source: Source) -> dict[str, int]:
    """How far it came."""
    if not (folder / PROGRESS).is_file():
        return {"read": 0, "rows": 0}
    found = read_json(folder / PROGRESS)
    if any(found.get(key) != value for key, value in identity.items()):
        raise ValueError(
            f"{folder} was made with another autoencoder, text encoder, size or estimator; choose a new folder"
        )
    if found.get("pairs", False) != identity.get("pairs", False):
        raise ValueError(f"{folder} holds pairs, or the source does, but not both; choose a new folder")
    known = source.identity(int(found["read"]))
    if found.get("source", known) != known:
        raise ValueError(
            f"{folder} holds other pictures, or some have come or gone among those it holds; choose a new folder"
        )
    return {"read": int(found["read"]), "rows": int(found["rows"])}
