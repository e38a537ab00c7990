"""Training state that survives a kill at any moment: safetensors and JSON, replaced atomically."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

STATE = "state.safetensors"


def save_state(
    folder: Path,
    step: int,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    still: Mapping[str, str] | None = None,
) -> None:
    """Write everything a run needs to go on: one file, complete or absent, never half.

    Args:
        folder: the run's folder.
        step: optimiser steps taken.
        modules: by name; their whole ``state_dict`` is kept, but for what never moves.
        optimizer: only its per-parameter tensors are kept, learning rates follow from ``step``.
        scaler: of fp16 gradients, where there is one.
        still: networks and parameters that never move (``module/path``), with their digests, which are kept in their
            place.
    """
    still = still or {}
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            if _within(f"{name}/{key}", still):
                continue
            tensors[f"{name}/{key}"] = value.detach().cpu().contiguous().clone()
    for index, slots in optimizer.state_dict()["state"].items():
        for slot, value in _flat(slots):
            tensors[f"optimizer/{index}/{slot}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{STATE}.partial"
    scales = scaler.state_dict() if scaler else {}
    save_file(tensors, partial, metadata={"step": str(step), "scaler": json.dumps(scales), "still": json.dumps(still)})
    with open(partial, "rb") as written:
        os.fsync(written.fileno())
    partial.replace(folder / STATE)


def load_state(
    folder: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    still: Mapping[str, str] | None = None,
) -> int:
    """Restore what :func:`save_state` wrote, strictly; returns the step, 0 if there is no state yet.

    Raises:
        ValueError: the run began with other networks than these in the place of those that never move.
    """
    still = still or {}
    path = folder / STATE
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
        step, scales = int(facts["step"]), json.loads(facts.get("scaler", "{}"))
        for name, weights in json.loads(facts.get("still", "{}")).items():
            if still.get(name) != weights:
                raise ValueError(
                    f"the run in {folder} began with other weights of its frozen {name.split('/')[-1]} than these; "
                    f"bring those back, or choose a new folder (--runs, or --name of a distillation)"
                )
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    for name, module in modules.items():
        prefix = f"{name}/"
        kept = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        untouched = {k: v for k, v in module.state_dict().items() if _within(prefix + k, still)}
        module.load_state_dict(untouched | kept)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, slot = key.split("/")
            # What was a number is one again: whole numbers are no tensors in any optimiser.
            number = value.ndim == 0 and value.dtype == torch.int64
            state.setdefault(int(index), {})[slot] = value.item() if number else value
    if scaler and scales:
        scaler.load_state_dict(scales)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def _flat(slots: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """An optimiser's values of one parameter: bitsandbytes has some of them in a dictionary, and reads them without."""
    for slot, value in slots.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield slot, value


def _within(key: str, places: Mapping[str, str]) -> bool:
    return key in places or any(key[:end] in places for end, letter in enumerate(key) if letter == ".")


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def is_recorded(path: Path, content: object) -> bool:
    """Whether a JSON file holds just this: what was made of it need not be made again."""
    return path.is_file() and read_json(path) == content


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``folder`` once everything is written."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def fingerprint(folders: Iterable[Path], facts: str = "") -> str:
    """Twelve hexadecimal digits that change with the weights in these folders and with the facts beside them."""
    digest = hashlib.sha256(facts.encode())
    for folder in folders:
        for path in sorted(folder.rglob("*.safetensors")):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def digest(module: nn.Module) -> str:
    """Twelve hexadecimal digits that change with the weights of a module."""
    found = hashlib.sha256()
    for name, value in module.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]
