"""Training state that survives a kill at any moment: one safetensors file, replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cdd_core.provenance import STATE
from cdd_core.shards import like, whole

FORMER = "base."  # which older states hold beside a student that has nothing more to do with it


def save_state(
    folder: Path,
    step: int,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    still: Mapping[str, str] | None = None,
    writes: bool = True,
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
        writes: whether this process is the one that does. The others have to call it as well: some tensors may be in
            shards.
    """
    still = still or {}
    tensors: dict[str, Tensor] = {}

    def keep(key: str, value: object) -> None:
        value = whole(torch.as_tensor(value).detach())
        if writes:
            tensors[key] = value.cpu().contiguous().clone()

    for name, module in modules.items():
        for key, value in module.state_dict().items():
            if not _within(f"{name}/{key}", still):
                keep(f"{name}/{key}", value)
    for index, slots in optimizer.state_dict()["state"].items():
        for slot, value in _flat(slots):
            keep(f"optimizer/{index}/{slot}", value)
    if not writes:
        return
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
            if still.get(name, weights) != weights:
                raise ValueError(
                    f"the run in {folder} began with other weights of its frozen {name.split('/')[-1]} than these; "
                    f"bring those back, or choose a new folder (--runs, or --name of a distillation)"
                )
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    for name, module in modules.items():
        prefix, own = f"{name}/", module.state_dict()
        kept = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        if not any(k.startswith(FORMER) for k in own):
            kept = {k: v for k, v in kept.items() if not k.startswith(FORMER)}
        untouched = {k: v for k, v in own.items() if _within(prefix + k, still)}
        module.load_state_dict(untouched | {k: like(v, own[k]) if k in own else v for k, v in kept.items()})
    learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, slot = key.split("/")
            # What was a number is one again: whole numbers are no tensors in any optimiser.
            number = value.ndim == 0 and value.dtype == torch.int64
            value = like(value, learning[int(index)])
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
