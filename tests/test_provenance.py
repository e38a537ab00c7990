"""A run's record: kept as it began, refused where it would no longer be true, and handed down."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cdd_core.checkpoint import STATE
from cdd_core.provenance import begin, current_commit, read_record

CONFIG = {"loop": {"steps": 10, "learning_rate": 1e-3, "betas": (0.9, 0.99)}, "stages": 20, "start": ""}


def changed(loop: dict[str, object] | None = None, **fields: object) -> dict[str, object]:
    return {**CONFIG, "loop": {**CONFIG["loop"], **(loop or {})}, **fields}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    begin(tmp_path / "run", "distill", "best", CONFIG, "python -m cdd_core distill", "Terra")
    return tmp_path / "run"


def test_a_run_goes_on_as_it_began(run: Path):
    (run / STATE).touch()
    begin(run, "distill", "best", changed({"steps": 20}), "another command", "other data")
    record = read_record(run)
    assert record["config"]["loop"]["steps"] == 20, "more steps may be asked for"
    assert (record["command"], record["data"]) == ("python -m cdd_core distill", "Terra")
    with pytest.raises(ValueError, match="was begun with stages = 20, not 50"):
        begin(run, "distill", "best", changed(stages=50), "", "")
    with pytest.raises(ValueError, match=r"learning_rate = 0\.001, not 0\.01"):
        begin(run, "distill", "best", changed({"learning_rate": 1e-2}), "", "")
    assert read_record(run) == record, "what is refused changes nothing"


def test_before_its_first_state_a_run_may_begin_anew(run: Path):
    begin(run, "distill", "best", changed(stages=50), "second", "Terra")
    assert (read_record(run)["config"]["stages"], read_record(run)["command"]) == (50, "second")


def test_a_record_has_its_ancestors(run: Path, tmp_path: Path):
    begin(tmp_path / "next", "base", "pocket", changed(start=str(run / "export" / "unet")), "", "")
    assert read_record(tmp_path / "next")["began_as"] == read_record(run)
    begin(tmp_path / "other", "base", "pocket", changed(start="unet"), "", "")
    assert "began_as" not in read_record(tmp_path / "other")


def test_a_changed_checkout_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert current_commit() == "unknown"
    (tmp_path / "file").write_text("one")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)
    clean = current_commit()
    assert len(clean) >= 7
    assert not clean.endswith("+")
    (tmp_path / "file").write_text("two")
    assert current_commit() == f"{clean}+"


def test_what_is_no_run_is_told(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        read_record(tmp_path)
