"""Trainings in processes of their own, for tests: a stage for a few steps, its losses as JSON.

accelerate launch tests/distributed.py RUN STEPS BATCH [SECONDS_A_STEP [PICKLED_STAGE]]
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from cdd_core import trainer
from cdd_core.config import LoopConfig
from cdd_core.denoiser import balance
from cdd_core.speed import diffusion_networks
from cdd_core.trainer import Draws, Losses, Stage, train

ROOT = Path(__file__).parents[1]
KILLS = 10


class Line(Stage):
    """A small network learns a function."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def draw(self, generator: torch.Generator, count: int) -> Draws:
        return {"x": torch.randn(count, 4, generator=generator)}

    def forward(self, draws: Draws) -> Losses:
        x = draws["x"]
        y = self.student(x)[:, 0]
        loss, other = (y - x.prod(1).sin()).square().mean(), y.abs().mean()
        return {"loss": loss + 0.1 * balance(loss, other, y) * other}

    def preview(self, averaged: nn.Module) -> Tensor:
        return torch.zeros(3, 8, 8)

    def export(self, averaged: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)


def blank(_: nn.Module) -> torch.Tensor:
    """In place of a stage's preview, where nobody looks at it after every step."""
    return torch.zeros(3, 8, 8)


def main(run: str, steps: str, batch: str, pause: str = "0", pickled: str = "") -> None:
    """Train, then write this process's losses beside the run, and how many wrappers outlived it.

    Slow on request, so that it can be killed in the middle.
    """
    stage: Stage = pickle.loads(Path(pickled).read_bytes()) if pickled else Line()
    folder, rank, ends = Path(run), os.environ.get("RANK", "0"), Accelerator.end_training
    told: list[float] = []
    stage.register_forward_pre_hook(lambda *_: time.sleep(float(pause)))
    stage.register_forward_hook(lambda _, __, losses: told.append(losses["loss"].item()))

    def end(accelerator: Accelerator) -> None:
        alive = sum(isinstance(found, DistributedDataParallel) for found in gc.get_objects())
        (folder / f"wrappers-{rank}.json").write_text(json.dumps(alive))
        ends(accelerator)

    Accelerator.end_training = end
    # A rate at which training isn't chaotic: one process and two round differently, and how much depends on the CPU.
    loop = LoopConfig(int(steps), int(batch), 1e-3, warmup_steps=2, precision="no", log_every=1, save_minutes=0.0)
    train(stage, loop, folder, cpu=True)
    (folder / f"losses-{rank}.json").write_text(json.dumps(told))


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


def launch(run: Path, steps: int, processes: int, pickled: str = "") -> None:
    """Train by ``accelerate launch``."""
    # "multi_gpu" is accelerate's word for its launcher of several processes; the script keeps them on the CPU.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    command += ["--main_process_port", "0"]  # any free one
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        [*command, __file__, str(run), str(steps), "8", "0", *filter(None, [pickled])],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def start(run: Path, steps: int, pause: float = 0.0, pickled: str = "") -> multiprocessing.Process:
    """One process alone, with everything imported already."""
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(["tests.distributed", "cdd_core.stages.distillation"])
    process = fresh.Process(target=main, args=(str(run), str(steps), "8", str(pause), pickled))
    process.start()
    return process


def assert_two_are_one(folder: Path, steps: int, pickled: str = "") -> None:
    """The batch is global: each process takes its share, gradients are averaged, the curve is the same."""
    whole = start(folder / "1", steps, pickled=pickled)
    launch(folder / "2", steps, 2, pickled)
    whole.join(300)
    assert whole.exitcode == 0
    alone = json.loads((folder / "1" / "losses-0.json").read_text())
    shares = [json.loads((folder / "2" / f"losses-{rank}.json").read_text()) for rank in (0, 1)]
    assert shares[0] != shares[1], "they saw different examples"
    left = [json.loads((folder / "2" / f"wrappers-{rank}.json").read_text()) for rank in (0, 1)]
    assert left == [0, 0], "a wrapper that outlives its group of processes waits for it with Python's lock in its hand"
    np.testing.assert_allclose(np.mean(shares, 0), alone, rtol=0, atol=1e-4)
    weights = [load_file(folder / name / "state.safetensors") for name in ("1", "2")]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=0, atol=1e-4)


def assert_kills_change_nothing(folder: Path, steps: int, pause: float, pickled: str = "") -> None:
    """SIGKILL at random moments; the same command each time. In the end the same bits as a run left in peace.

    Args:
        folder: for both runs.
        steps: so many that it can't be at its end before the last kill.
        pause: seconds that a step takes at least.
        pickled: file of a stage.
    """
    calm = start(folder / "peace", steps, pickled=pickled)
    calm.join(300)
    assert calm.exitcode == 0
    dice, killed = random.Random(0), 0
    finished = folder / "killed" / "losses-0.json"
    deadline = time.monotonic() + 300
    while not finished.exists():
        assert time.monotonic() < deadline, "it doesn't get to its end"
        run = start(folder / "killed", steps, pause if killed < KILLS else 0.0, pickled)
        if killed < KILLS:
            state = folder / "killed" / "state.safetensors"
            before = state.stat().st_mtime_ns if state.exists() else 0
            while run.is_alive() and (not state.exists() or state.stat().st_mtime_ns == before):
                time.sleep(0.01)  # it has come further than last time
            time.sleep(dice.uniform(0, 3 * pause))
            run.kill()
            killed += 1
        run.join(300)
        assert run.exitcode == (0 if finished.exists() else -signal.SIGKILL)
    assert killed == KILLS
    peace, war = (load_file(folder / name / "state.safetensors") for name in ("peace", "killed"))
    assert peace.keys() == war.keys()
    assert all(torch.equal(peace[key], war[key]) for key in peace)


if __name__ == "__main__":
    main(*sys.argv[1:])
