"""A run's record: kept as it began, refused where it would no longer be true, and handed down."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from cdd_core.cards import Card
from cdd_core.checkpoint import write_json
from cdd_core.config import EDIT_PRESETS, TEXT_PRESETS, TerraConfig
from cdd_core.provenance import EXPORTED, STATE, begin, current_commit, read_record, refuse_unfinished
from cdd_core.recipes import CDD_PRESETS, distill_presets
from cdd_core.workshop import Workshop

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "pocket"
CONFIG = {"loop": {"steps": 10, "learning_rate": 1e-3, "betas": (0.9, 0.99)}, "stages": 20, "start": ""}


def changed(loop: dict[str, object] | None = None, **fields: object) -> dict[str, object]:
    return {**CONFIG, "loop": {**CONFIG["loop"], **(loop or {})}, **fields}


def record(config: dict[str, object], command: str = "distill", data: str = "Terra") -> dict[str, object]:
    return {"stage": "distill", "preset": "best", "command": command, "data": data, "config": config}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    begin(tmp_path / "run", record(CONFIG), {})
    return tmp_path / "run"


def test_a_run_goes_on_as_it_began(run: Path):
    (run / STATE).touch()
    begin(run, record(changed({"steps": 20}), "another command"), {})
    kept = read_record(run)
    assert kept["config"]["loop"]["steps"] == 20, "more steps may be asked for"
    assert kept["command"] == "distill"
    with pytest.raises(ValueError, match="was begun with stages = 20, not 50"):
        begin(run, record(changed(stages=50)), {})
    with pytest.raises(ValueError, match=r"learning_rate = 0\.001, not 0\.01"):
        begin(run, record(changed({"learning_rate": 1e-2})), {})
    with pytest.raises(ValueError, match="data = Terra, not photographs"):
        begin(run, record(CONFIG, data="photographs"), {})
    assert read_record(run) == kept, "what is refused changes nothing"


def test_before_its_first_state_a_run_may_begin_anew(run: Path):
    begin(run, record(changed(stages=50), "second"), {})
    assert (read_record(run)["config"]["stages"], read_record(run)["command"]) == (50, "second")


def test_nothing_is_built_upon_a_run_that_goes_on(run: Path, tmp_path: Path):
    refuse_unfinished(tmp_path / "nowhere")
    refuse_unfinished(run)  # it has exported nothing yet, so there is nothing to build upon
    for step, refused in ((9, True), (10, False)):
        write_json(run / "export" / EXPORTED, {"step": step})
        with pytest.raises(ValueError, match="step 9 of 10; let it end") if refused else nullcontext():
            refuse_unfinished(run)
    shop = Workshop(tmp_path, tmp_path, tmp_path, tmp_path, TerraConfig(), torch.device("cpu"))
    write_json(run / "export" / EXPORTED, {"step": 9})
    (run / "export" / "unet").mkdir()
    with pytest.raises(ValueError, match="let it end"):
        shop.part("run", "unet")
    begun = str(run / "export" / "unet")
    for config in (replace(EDIT_PRESETS["pocket"], start=begun), replace(TEXT_PRESETS["pocket"], start=begun)):
        with pytest.raises(ValueError, match="let it end"):
            shop.stage("edit", config)
    with pytest.raises(ValueError, match="let it end"):
        shop.stage("distill", replace(CDD_PRESETS["best"], go_on_from=str(run / "export")))


def test_a_record_has_its_ancestors_for_good(run: Path, tmp_path: Path):
    before = read_record(run)
    begin(tmp_path / "next", record(CONFIG), {"start": run, "base": tmp_path / "nowhere"})
    assert read_record(tmp_path / "next")["ancestors"] == {"start": before}
    (tmp_path / "next" / STATE).touch()
    begin(run, record(changed(stages=50)), {})
    begin(tmp_path / "next", record(CONFIG), {"start": run})
    assert read_record(tmp_path / "next")["ancestors"] == {"start": before}, "as they were then"


def test_shipped_weights_are_ancestors_too(family: Path, tmp_path: Path):
    """Who trains a further task here has no run of the base, and none of what is shipped."""
    shutil.copytree(family / "base", tmp_path / "base")
    (tmp_path / "base" / "provenance.json").write_text('{"commit": "one"}')
    replace(Card.read(family / "edit" / "undistilled"), provenance={"commit": "other"}).write(tmp_path)
    begin(tmp_path / "run", record(CONFIG), {"base": tmp_path / "base", "undistilled": tmp_path})
    kept = read_record(tmp_path / "run")["ancestors"]
    assert kept == {"base": {"commit": "one"}, "undistilled": {"commit": "other"}}


@pytest.mark.parametrize("place", ["mine/export/unet", "shipped/edit/undistilled/unet"])
def test_what_a_training_starts_from_is_an_ancestor(place: str, tmp_path: Path):
    """A run of one's own, or what is shipped."""
    home = tmp_path / place.removesuffix("/unet").removesuffix("/export")
    home.mkdir(parents=True)
    write_json(home / ("config.json" if "export" in place else "provenance.json"), {"commit": "one"})
    shop = Workshop(tmp_path, tmp_path, tmp_path, tmp_path, TerraConfig(), torch.device("cpu"))
    shop.record(tmp_path / "run", replace(EDIT_PRESETS["pocket"], start=str(tmp_path / place)), "edit", "pocket", "")
    further = replace(CDD_PRESETS["best"], go_on_from=str((tmp_path / place).parent))
    shop.record(tmp_path / "further", further, "distill", "best", "")
    for run in ("run", "further"):
        assert read_record(tmp_path / run)["ancestors"]["start"] == {"commit": "one"}


def test_a_changed_checkout_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert current_commit() == "unknown"
    (tmp_path / "file").write_text("one")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", *words], check=True
        )
    clean = current_commit()
    assert len(clean) >= 7
    assert not clean.endswith("+")
    (tmp_path / "file").write_text("two")
    assert current_commit() == f"{clean}+"


@pytest.mark.parametrize("task", ["depth", "edit", "upscale"])
def test_the_preset_called_best_made_what_is_shipped(task: str):
    """But for what the depth student began with, which had trainings before: docs/pocket.md tells their flags."""
    trained = Card.read(SHIPPED / task / "distilled").provenance["config"]
    assert bool(trained.pop("go_on_from", "")) == (task == "depth")
    preset = json.loads(json.dumps(asdict(distill_presets(task)["best"])))
    loop, made = preset.pop("loop"), trained.pop("loop")
    assert {key: preset[key] for key in trained} == trained
    for key in ("steps", "batch", "learning_rate", "ema_decay"):
        assert loop[key] == made[key], key


def test_what_is_no_run_is_told(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        read_record(tmp_path)


def test_a_record_tells_nobody_where_its_author_keeps_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Cards are published: of a place outside the working folder the last name is told, in it the way from there."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    command = (
        f"python -m cdd_core train --start {tmp_path / 'mine' / 'unet'} --data={here / 'runs' / 'own'} --steps 1/2"
    )
    old = {"config": {"start": str(here / "old" / "unet"), "sizes": [64]}}
    begin(tmp_path / "run", {"stage": "edit", "command": command, "data": "by day / by night", "config": {}}, {})
    write_json(
        tmp_path / "run" / "config.json", {**read_record(tmp_path / "run"), "command": command, "ancestors": old}
    )
    told = read_record(tmp_path / "run")
    assert told["command"] == "python -m cdd_core train --start …/unet --data=runs/own --steps 1/2"
    assert told["ancestors"] == {"config": {"start": "old/unet", "sizes": [64]}}
    assert told["data"] == "by day / by night"
