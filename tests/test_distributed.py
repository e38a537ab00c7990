"""Several processes are one larger batch, and a killed run is a run never stopped: in processes of their own."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import accelerate
import pytest
import torch

from cdd_core import trainer
from cdd_core.cli import Places, Train
from cdd_core.workshop import Workshop
from tests.distributed import assert_kills_change_nothing, assert_two_are_one


def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path):
    assert_two_are_one(tmp_path, 12)


def test_ten_kills_change_nothing(tmp_path: Path):
    assert_kills_change_nothing(tmp_path, 150, 0.05)


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
