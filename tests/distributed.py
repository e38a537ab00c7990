"""Run by ``accelerate launch`` in tests: a tiny stage for a few steps, its losses as JSON.

accelerate launch tests/distributed.py RUN STEPS BATCH [SECONDS_A_STEP]
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from cdd_core import trainer
from cdd_core.config import LoopConfig
from cdd_core.denoiser import balance
from cdd_core.speed import diffusion_networks
from cdd_core.trainer import Draws, Losses, Stage, train


class Line(Stage):
    """A small network learns a function; slow on request, so that it can be killed in the middle."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        self.pause, self.told = pause, []

    def draw(self, generator: torch.Generator, count: int) -> Draws:
        return {"x": torch.randn(count, 4, generator=generator)}

    def forward(self, draws: Draws) -> Losses:
        time.sleep(self.pause)
        x = draws["x"]
        y = self.student(x)[:, 0]
        loss, other = (y - x.prod(1).sin()).square().mean(), y.abs().mean()
        loss = loss + 0.1 * balance(loss, other, y) * other
        self.told.append(loss.item())
        return {"loss": loss}

    def preview(self, averaged: nn.Module) -> Tensor:
        return torch.zeros(3, 8, 8)

    def export(self, averaged: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)


def main(run: str, steps: str, batch: str, pause: str = "0") -> None:
    """Train, then write this process's losses beside the run, and how many wrappers outlived it."""
    stage, folder, rank, ends = Line(float(pause)), Path(run), os.environ.get("RANK", "0"), Accelerator.end_training

    def end(accelerator: Accelerator) -> None:
        alive = sum(isinstance(found, DistributedDataParallel) for found in gc.get_objects())
        (folder / f"wrappers-{rank}.json").write_text(json.dumps(alive))
        ends(accelerator)

    Accelerator.end_training = end
    loop = LoopConfig(int(steps), int(batch), 1e-2, warmup_steps=2, precision="no", log_every=1, save_minutes=0.0)
    train(stage, loop, folder, cpu=True)
    (folder / f"losses-{rank}.json").write_text(json.dumps(stage.told))


def member(pickled: bytes, loop: LoopConfig, run: str, rank: int, port: int) -> None:
    """One of two processes that share a training, its networks in shards."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_FSDP": "true"}
    torch.set_num_threads(1)
    stage, own = pickle.loads(pickled), trainer.average_of

    def average_of(student: nn.Module, decay: float) -> AveragedModel:
        averages.append(own(student, decay))
        return averages[-1]

    averages: list[AveragedModel] = []
    trainer.average_of = average_of
    train(stage, loop, Path(run), cpu=True)
    for network in (stage.student, averages[0], *stage.twins(), *stage.children()):
        learns = network not in stage.still().values() and any(True for _ in diffusion_networks(network))
        cut = any(isinstance(parameter, DTensor) for parameter in network.parameters())
        assert cut is learns, "each process holds a part of what learns or moves, and all of the rest"


if __name__ == "__main__":
    main(*sys.argv[1:])
