"""What a run says of itself, from its first step to its weights' card: settings, command, code, data, ancestors."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from cdd_core.cards import CARD, Card
from cdd_core.checkpoint import read_json, write_json

STATE = "state.safetensors"  # of a training that can go on
EXPORTED = "step.json"  # in an export: the step it was made at
RECORD = "config.json"
CARD_FACTS = "card"  # in a record: of the model's card, whatever the folders hold by the time of its export
SHIPPED_RECORD = "provenance.json"  # of a family's base; the others have theirs in their card
ABSOLUTE = re.compile(r"(?<![^\s='\"])/[^\s'\"]+")  # a path from the root, at the beginning of a word
# What a run may change on its way.
FREE = {
    "steps",
    "log_every",
    "save_minutes",
    "tracker",
    "compile",
    "checkpointing",
    "precision",
}


def begin(run: Path, record: dict[str, object], ancestors: dict[str, Path]) -> None:
    """Write a run's record when it starts; one that goes on keeps its record, and has to go on as it began.

    Args:
        run: the run's folder.
        record: ``stage``, ``preset``, ``command``, ``data`` (what it learns from, in words), ``config`` (every
            setting), and of one's own pictures ``pictures``, which they are.
        ancestors: what it builds upon, by the part they have in it: runs, or shipped weights where there are no runs;
            their records are kept within its own.

    Raises:
        ValueError: the run was begun with other settings or data.
    """
    now = json.loads(json.dumps(record, default=str))
    if (run / STATE).exists() and (run / RECORD).exists():
        known = read_json(run / RECORD)
        _same({name: known[name] for name in ("data", "pictures", "config") if name in known}, now, run)
        write_json(run / RECORD, {**known, "config": now["config"]})
        return
    found = {name: _record_in(folder) for name, folder in ancestors.items()}
    known = {name: record for name, record in found.items() if record}
    write_json(run / RECORD, {"commit": current_commit(), **now, "ancestors": known})


def refuse_unfinished(run: Path) -> None:
    """Nothing is built upon a run that goes on: its weights will be others.

    Raises:
        ValueError: the run has exported, and hasn't come to its end.
    """
    exported = run / "export" / EXPORTED
    if not (exported.is_file() and (run / RECORD).is_file()):
        return
    step, steps = read_json(exported)["step"], read_json(run / RECORD)["config"]["loop"]["steps"]
    if step < steps:
        raise ValueError(
            f"the training in {run} has come to step {step} of {steps}; let it end first, with the command that began "
            f"it, or end it there with --loop.steps {step}"
        )


def _record_in(folder: Path) -> dict[str, object]:
    """What a run, a shipped base or a shipped model says of itself; nothing if it is none."""
    if (folder / RECORD).is_file():
        return {name: value for name, value in read_json(folder / RECORD).items() if name != CARD_FACTS}
    if (folder / SHIPPED_RECORD).is_file():
        return read_json(folder / SHIPPED_RECORD)
    return Card.read(folder).provenance if (folder / CARD).is_file() else {}


def _same(before: dict[str, object], now: dict[str, object], run: Path) -> None:
    for name, value in before.items():
        if isinstance(value, dict) and isinstance(now.get(name), dict):
            _same(value, now[name], run)
        elif name in now and name not in FREE and now[name] != value:
            raise ValueError(
                f"the run in {run} was begun with {name} = {value}, not {now[name]}; go on like that, or move it away "
                f"and begin anew"
            )


def read_record(run: Path) -> dict[str, object]:
    """A run's record, to be shown to others: of places outside the working folder it tells the last name alone.

    Raises:
        FileNotFoundError: there is no run.
    """
    if not (run / RECORD).is_file():
        raise FileNotFoundError(f"{run} holds no run; train first")
    return _shown(read_json(run / RECORD))


def _shown(value: object) -> object:
    if isinstance(value, dict):
        return {name: _shown(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shown(each) for each in value]
    return ABSOLUTE.sub(_nearby, value) if isinstance(value, str) else value


def _nearby(found: re.Match[str]) -> str:
    place = Path(found[0])
    return place.relative_to(Path.cwd()).as_posix() if place.is_relative_to(Path.cwd()) else f"…/{place.name}"


def current_commit() -> str:
    """The commit the code stands at, with + if files differ from it, or ``unknown`` outside a checkout."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
