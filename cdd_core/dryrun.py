"""What a training run would be: its settings, its size, its time; found by taking two steps and forgetting them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace

import torch
from torch import nn

from cdd_core.config import LoopConfig
from cdd_core.speed import mixed_precision
from cdd_core.trainer import Stage, make_fast, step_generator

STEPS = 2  # the second one is timed; the first pays for memory and caches
BYTES = {"adamw": 8, "adamw8bit": 2}  # of both moments of a parameter


def describe(stage: Stage, loop: LoopConfig, settings: object, device: torch.device) -> str:
    """A report for people; leaves the stage with gradients but otherwise as it was.

    Args:
        stage: freshly built.
        loop: its budget.
        settings: the resolved config, a dataclass.
        device: where it would train.
    """
    stage.to(device).eval()
    make_fast(stage, replace(loop, compile=False))  # what compiled steps take, the first minutes can't tell
    learns = sum(p.numel() for p in stage.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in stage.parameters() if not p.requires_grad)
    averaged = sum(p.numel() for p in stage.student.parameters())
    # fp32: weights of all, and gradients of what learns; beside them its moments, and the average of the student.
    beside = BYTES.get(loop.optimizer, 8) * learns + 4 * averaged
    states = 4 * (learns + frozen + learns) + beside
    seconds, peak = _measure(stage, loop, device)
    peak += beside if peak else 0  # not made yet
    lines = [
        json.dumps(asdict(settings), indent=2, default=str),
        f"parameters that learn: {learns:,}; frozen: {frozen:,}",
        f"memory for weights, gradients, moments and average: {states / 2**20:,.0f} MiB",
        f"memory at the height of a step: {peak / 2**20:,.0f} MiB on the GPU" if peak else "",
        f"{seconds:.2f} seconds a step of {loop.batch}; {loop.steps} steps: {_duration(seconds * loop.steps)}",
    ]
    return "\n".join(filter(None, lines))


def _measure(stage: Stage, loop: LoopConfig, device: torch.device) -> tuple[float, int]:
    """Seconds of a step, and the most memory it held on a GPU."""
    precision, seconds = mixed_precision(loop.precision, device), 0.0
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
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
