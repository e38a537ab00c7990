"""A family's folder becomes a model: shared parts loaded once, own networks beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from cdd_core.attention import can_choose, keep_faster
from cdd_core.cards import ONCE, Card, variants_in
from cdd_core.checkpoint import fingerprint, read_json
from cdd_core.denoiser import Denoiser, assemble, frozen
from cdd_core.families import remedy
from cdd_core.models import LORA, Components, latents_factor, load_components, load_module, with_lora
from cdd_core.offload import Turns
from cdd_core.tasks import TASKS

PARTS = ("unet", "controlnet")  # what a model may bring beside its base
LARGE = 64  # latents a side from which on a GPU draws in half precision


@dataclass(frozen=True)
class Model:
    """A loaded model: shared parts, the denoiser with its own weights, and its card."""

    components: Components
    denoiser: Denoiser
    card: Card
    device: torch.device

    @property
    def size(self) -> int:
        """Pixels a side of the pictures it draws."""
        return self.components.unet.config.sample_size * self.pixels_per_latent

    @property
    def pixels_per_latent(self) -> int:
        """How many pixels one latent covers along a side."""
        return latents_factor(self.components.vae)

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes it can draw, smallest first; a picture to enlarge is cut into squares of its own instead."""
        return tuple(sorted({self.size, *self.card.sizes}))

    def latents_side(self, condition: Tensor) -> int:
        """Latents a side of the picture that belongs to a condition, (B, C, S, S)."""
        return condition.shape[-1] // (1 if self.card.adapter == "concat" else self.pixels_per_latent)


def family_folder(name: str) -> Path:
    """Where a family lies, or should: a name such as ``pocket`` means ``checkpoints/pocket``, a path is a folder."""
    given, shipped = Path(name), Path("checkpoints") / name
    return given if len(given.parts) > 1 or (given.is_dir() and not shipped.is_dir()) else shipped


def load(
    path: str | Path,
    task: str,
    variant: str = "distilled",
    device: str | torch.device = "cpu",
    shared: Components | None = None,
    dtype: torch.dtype = torch.float32,
    turns: Turns | None = None,
    together: dict[str, nn.Module] | None = None,
) -> Model:
    """Load one model of a family.

    Args:
        path: the family's folder, such as ``checkpoints/pocket``.
        task: a key of ``tasks.TASKS``.
        variant: ``distilled``, ``undistilled`` or the name of another folder under the task.
        device: where to run.
        shared: parts of this family that are loaded already; the frozen base is then held once.
        dtype: of U-Net, adapter and autoencoder; the text encoder keeps its own.
        turns: on a small card, one object for all models of the family, see ``offload``.
        together: networks of this family's other models, which are used again where the weights are the same; those
            that are loaded here are added.

    Raises:
        ValueError: no such task.
        FileNotFoundError: the weights are not there; the message says which and what to do.
    """
    if task not in TASKS:
        raise ValueError(f"the task is one of {', '.join(TASKS)}, not {task!r}")
    folder = Path(path) / task / variant
    if not folder.is_dir():
        others = variants_in(folder.parent)
        here = f"here are {', '.join(others)} (--variant); else " if others else ""
        raise FileNotFoundError(f"there are no weights in {folder}; {here}{remedy(Path(path))}")
    card = Card.read(folder)
    device = torch.device(device)
    home = torch.device("cpu") if turns else device
    components = shared or load_components((folder / card.base).resolve()).to(home, dtype)

    def once(place: Path, make: Callable[[], nn.Module], on: str = "") -> nn.Module:
        if together is None:
            return make()
        key = f"{fingerprint([place])} {on}"
        return together[key] if key in together else together.setdefault(key, make())

    own = {name: once(folder / name, partial(load_module, folder / name)) for name in PARTS if (folder / name).is_dir()}
    if (folder / LORA).is_dir():
        place = (folder / (card.unet or ("unet" if "unet" in own else f"{card.base}/unet"))).resolve()
        bearer = once(place, partial(load_module, place)) if card.unet else own.get("unet", components.unet)
        own["unet"] = once(folder / LORA, partial(with_lora, bearer, folder / LORA), str(place))
    parts = nn.ModuleDict(own).to(home, dtype)
    denoiser = assemble(parts, components.unet, components.schedule, once=card.adapter == ONCE)
    for part in (denoiser, components.vae, components.text_encoder):
        frozen(part).to(memory_format=torch.channels_last)  # convolutions are a fifth faster in it on a CPU
        if turns:
            turns.add(part)
    if turns and components.preview is not None:
        components.preview.to(device)
    model = Model(components, denoiser, card, device)
    if can_choose(device) and turns is None:
        _settle_attention(model)
    return model


@torch.no_grad()
def _settle_attention(model: Model) -> None:
    """Keep the kernel that is faster for one picture of the model's own size."""
    unet, adapter = model.denoiser.unet, model.card.adapter
    side, given = unet.config.sample_size, {"device": model.device, "dtype": unet.dtype}
    z = torch.zeros(1, unet.config.out_channels, side, side, **given)
    text = torch.zeros(1, model.components.tokenizer.model_max_length, unet.config.cross_attention_dim, **given)
    condition = z if adapter == "concat" else torch.zeros(1, 3, model.size, model.size, **given)

    def run() -> None:
        model.denoiser.output(z, torch.zeros(1, dtype=torch.long, device=model.device), text, condition)
        torch.cuda.synchronize()

    keep_faster([net for net in model.denoiser.modules() if isinstance(net, ModelMixin)], run)
    model.denoiser.adapter.evaluations = 0  # those were nobody's


def drawing_device(wanted: str) -> torch.device:
    """Where to draw: ``auto`` takes a GPU if there is one. Apple's are untried, and have to be asked for.

    Raises:
        ValueError: it isn't here.
    """
    device = torch.device(wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    here = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device.type in here and not here[device.type]():
        raise ValueError(f"PyTorch finds no device {wanted!r} here; --device auto takes what there is.")
    return device


def drawing_dtype(family: Path, device: torch.device) -> torch.dtype:
    """Half precision for large models on a GPU; the pocket family is too small to gain by it.

    Args:
        family: its folder.
        device: where it is to draw.
    """
    config = family / "base" / "unet" / "config.json"
    side = read_json(config).get("sample_size", 0) if config.is_file() else 0
    return torch.float16 if device.type == "cuda" and side >= LARGE else torch.float32
