"""What a training run would be: its settings, its size, its time; found by taking two steps and forgetting them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace

import torch
from torch import nn

from cdd_core.config import LoopConfig
from cdd_core.speed import HALF, mixed_precision
from cdd_core.trainer import Stage, make_fast, step_generator

STEPS = 2  # the second one is timed; the first pays for memory and caches
BYTES = {"adamw": 8, "adamw8bit": 2}  # of both moments of a parameter


def describe(stage: Stage, loop: LoopConfig, settings: object, device: torch.device, processes: int = 1) -> str:
    """A report for people; leaves the stage as training would begin with it, with gradients.

    Args:
        stage: freshly built.
        loop: its budget.
        settings: the resolved config, a dataclass.
        device: where it would train.
        processes: that share each batch; every one of them asks.
    """
    stage.to(device).eval()
    precision = mixed_precision(loop.precision, device)
    make_fast(stage, replace(loop, compile=False), precision)  # what compiled steps take, the first minutes can't tell
    learns = sum(p.numel() for p in stage.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in stage.parameters() if not p.requires_grad)
    states, beside = memory_of(stage, loop)
    share = max(1, loop.batch // processes)
    seconds, peak = _measure(stage, replace(loop, batch=share), device, HALF.get(precision))
    peak += beside if peak else 0  # not made yet
    lines = [
        json.dumps(asdict(settings), indent=2, default=str),
        f"parameters that learn: {learns:,}; frozen: {frozen:,}",
        f"memory for weights, gradients, moments and average: {states / 2**20:,.0f} MiB",
        f"memory at the height of a step: {peak / 2**20:,.0f} MiB on the GPU" if peak else "",
        f"{seconds:.2f} seconds a step of {loop.batch}; {loop.steps} steps: {_duration(seconds * loop.steps)}",
    ]
    return "\n".join(filter(None, lines))


def memory_of(stage: Stage, loop: LoopConfig) -> tuple[int, int]:
    """Bytes of a run, activations aside: of all it holds, and of that what only the loop will make.

    Weights, each held once and as it is held; gradients of what learns; its moments, and the average of its part that
    the student is.
    """
    learns = sum(p.numel() for p in stage.parameters() if p.requires_grad)
    averaged = sum(p.numel() for p in stage.student.parameters() if p.requires_grad)
    beside = BYTES.get(loop.optimizer, 8) * learns + 4 * averaged
    held = {p.untyped_storage()._cdata: p.nbytes for p in stage.parameters()}
    return sum(held.values()) + 4 * learns + beside, beside


def _measure(stage: Stage, loop: LoopConfig, device: torch.device, dtype: torch.dtype | None) -> tuple[float, int]:
    """Seconds of a step, and the most memory it held on a GPU."""
    seconds = 0.0
    for step in range(STEPS):
        draws = {k: v.to(device) for k, v in stage.draw(step_generator(loop.seed, step), loop.batch).items()}
        begin = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = stage(draws)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in stage.parameters() if p.requires_grad], loop.clip_norm)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - begin
    return seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"
