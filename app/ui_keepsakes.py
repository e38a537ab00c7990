"""From what the page knows of a finished run to what its files are made of."""

from __future__ import annotations

from collections.abc import Callable

from app.keepsakes import SHOWN, Run, Strip
from app.schema import RunReport
from app.ui_facts import report_facts, step_facts
from app.ui_files import file_at
from app.ui_stage import Stage, name
from app.ui_strips import sheet_columns
from app.ui_words import WORDS


def run_of(stage: Stage, report: RunReport, store: Callable[[bytes, str], str]) -> Run:
    """A run, as its files need it.

    Args:
        stage: with all its tiles.
        report: what came out.
        store: see :class:`Run`.
    """
    times = {lane.key: [tile.frame.t for tile in stage.drawn(lane, 0)] for lane in stage.lanes}
    heads, columns = sheet_columns(times, SHOWN)
    strips = []
    for picture in range(stage.pictures):
        for lane in stage.lanes:
            tiles = stage.drawn(lane, picture)
            files = tuple(file_at(tile.url) for tile in tiles)
            small = tuple(file_at(tile.thumbnail) for tile in tiles)
            strips.append(Strip(name(lane), stage.seed + picture, files, small, columns[lane.key]))
    every = [step_facts(tile.frame) for tiles in stage.tiles.values() for tile in tiles]
    facts = {**report_facts(report), "steps": every}
    condition, seen = file_at(stage.condition), WORDS[stage.task].seen
    stem = f"cdd-seed-{report.request.seed}"
    return Run(tuple(strips), condition, seen, heads, report.notes, facts, stem, store)
