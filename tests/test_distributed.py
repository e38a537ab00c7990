"""Several processes are one larger batch, and a killed run is a run never stopped: in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import accelerate
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cdd_core import trainer
from cdd_core.cli import Places, Train
from cdd_core.workshop import Workshop
from tests import distributed

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "tests" / "distributed.py")
KILLS = 10
STEPS = 150  # so many that it can't be at its end before the last kill


def launch(run: Path, steps: int, processes: int) -> None:
    # "multi_gpu" is accelerate's word for its launcher of several processes; the script keeps them on the CPU.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    command += ["--main_process_port", "0"]  # any free one
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        [*command, SCRIPT, str(run), str(steps), "8"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def start(run: Path, steps: int, pause: float = 0.0) -> multiprocessing.Process:
    """One process alone, with torch imported already."""
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(["tests.distributed"])
    process = fresh.Process(target=distributed.main, args=(str(run), str(steps), "8", str(pause)))
    process.start()
    return process


def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path):
    """The batch is global: each process takes its share, gradients are averaged, the curve is the same."""
    whole = start(tmp_path / "1", 12)
    launch(tmp_path / "2", 12, 2)
    whole.join(300)
    assert whole.exitcode == 0
    alone = json.loads((tmp_path / "1" / "losses-0.json").read_text())
    shares = [json.loads((tmp_path / "2" / f"losses-{rank}.json").read_text()) for rank in (0, 1)]
    assert shares[0] != shares[1], "they saw different examples"
    left = [json.loads((tmp_path / "2" / f"wrappers-{rank}.json").read_text()) for rank in (0, 1)]
    assert left == [0, 0], "a wrapper that outlives its group of processes waits for it with Python's lock in its hand"
    np.testing.assert_allclose(np.mean(shares, 0), alone, rtol=0, atol=1e-4)
    weights = [load_file(tmp_path / name / "state.safetensors") for name in ("1", "2")]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=0, atol=1e-4)


def test_ten_kills_change_nothing(tmp_path: Path):
    """SIGKILL at random moments; the same command each time. In the end the same bits as a run left in peace."""
    calm = start(tmp_path / "peace", STEPS)
    calm.join(300)
    assert calm.exitcode == 0
    dice, killed = random.Random(0), 0
    finished = tmp_path / "killed" / "losses-0.json"
    deadline = time.monotonic() + 300
    while not finished.exists():
        assert time.monotonic() < deadline, "it doesn't get to its end"
        run = start(tmp_path / "killed", STEPS, 0.05 if killed < KILLS else 0.0)
        if killed < KILLS:
            state = tmp_path / "killed" / "state.safetensors"
            before = state.stat().st_mtime_ns if state.exists() else 0
            while run.is_alive() and (not state.exists() or state.stat().st_mtime_ns == before):
                time.sleep(0.01)  # it has come further than last time
            time.sleep(dice.uniform(0, 0.15))
            run.kill()
            killed += 1
        run.join(300)
        assert run.exitcode == (0 if finished.exists() else -signal.SIGKILL)
    assert killed == KILLS
    peace, war = (load_file(tmp_path / name / "state.safetensors") for name in ("peace", "killed"))
    assert peace.keys() == war.keys()
    assert all(torch.equal(peace[key], war[key]) for key in peace)


@pytest.mark.parametrize("main", [True, False])
def test_every_process_builds_on_its_own_card_and_one_writes(main: bool, tmp_path: Path, monkeypatch):
    """Before, all of them built on the first card."""
    built = []
    state = SimpleNamespace(
        device=torch.device("cuda:1"),
        is_main_process=main,
        main_process_first=nullcontext,
        local_main_process_first=nullcontext,
    )
    monkeypatch.setattr(accelerate, "PartialState", lambda **_: state)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Workshop, "stage", lambda shop, *_: built.append(shop.device))
    monkeypatch.setattr(trainer, "train", lambda *_, **__: tmp_path)
    Train("base", places=Places(runs=tmp_path)).run([])
    assert built == [torch.device("cuda:1")]
    assert (tmp_path / "base" / "config.json").exists() == main
