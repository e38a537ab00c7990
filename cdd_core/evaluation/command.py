"""The ``evaluate`` verb: models, scenes and judges in; ``results.json``, ``results.md``, figures and sheets out."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from cdd_core.cards import Card
from cdd_core.checkpoint import fingerprint, write_json
from cdd_core.config import EvaluateConfig
from cdd_core.data.photos import photographs
from cdd_core.evaluation import compare, report, sheets
from cdd_core.evaluation.kept import KeptRows
from cdd_core.evaluation.metrics import depth_errors
from cdd_core.evaluation.photos import edit_photos, measure_photos
from cdd_core.evaluation.probe import load_probe, probe_depth
from cdd_core.evaluation.rows import Row, rows_of
from cdd_core.evaluation.runner import SHOWN, Runner, drawn
from cdd_core.evaluation.scenes import HeldOut, Judge
from cdd_core.images import open_image, to_disparity
from cdd_core.loading import Model, load
from cdd_core.memory import keep_freed_memory
from cdd_core.speed import mixed_precision
from cdd_core.tasks import POCKET_GAMMA, depth_condition

MEASURED = 2  # version of what is measured and kept of a row, and of how figures and their draws are made of it
KEPT = "rows"  # folder of what was measured, beside the table
SHEET_ROWS = (("undistilled", 50), ("undistilled", 4), ("distilled", 4), ("distilled", 1))


@dataclass(frozen=True)
class Beyond:
    """Folders outside the family: the probes, depth maps that are not from Terra, photographs."""

    probes: Path
    elsewhere: Path
    photos: Path


def evaluate(config: EvaluateConfig, family: Path, beyond: Beyond, device: str, command: str) -> None:
    """Measure and report; called again, it goes on where it stopped.

    Args:
        config: what to measure.
        family: folder of the models, such as ``checkpoints/pocket``.
        beyond: what else is looked at.
        device: where the models run.
        command: the command line, for the report.
    """
    keep_freed_memory()
    config = replace(config, precision=mixed_precision(config.precision, torch.device(device)))
    models: dict[str, Model] = {}
    for variant in config.variants:
        shared = next(iter(models.values())).components if models else None
        models[variant] = load(family, config.task, variant, device, shared=shared)
    size = next(iter(models.values())).size
    folder, workers = config.cache / f"scenes-{config.n}", max(1, os.cpu_count() or 1)
    if config.world:
        folder = folder.with_name(f"{folder.name}-world-{config.world}")
    scenes = HeldOut.open(folder, config.task, config.n, config.world, size, workers)
    judges = {name: Judge(load_probe(beyond.probes / name), scenes) for name in ("A", "B")}
    runner = Runner(config, models, scenes, judges)
    gate = runner.gate(next(iter(models.values())))
    write_json(config.out / "gate.json", gate)
    facts = f"{config.world} {config.n} {config.seed} {MEASURED} {scenes.shown_as} {scenes.prompts}"
    weights = {
        variant: fingerprint(
            [family / "base", *_homes(family / config.task / variant, model.card), beyond.probes],
            f"{_of_every_row(model.card)} {facts}",
        )
        for variant, model in models.items()
    }
    photos = [] if config.task == "depth" else _held_out_photos(beyond.photos)
    rows = rows_of(config, models, weights)
    lines = runner.table(rows, KeptRows(config.out / KEPT, [config.known / KEPT], gate))
    concluded = compare.summary(lines, runner.draws) if report.trusted(lines, gate, runner.draws) else {}
    whole: dict[str, object] = {"command": command, "gate": gate, "rows": lines, **concluded}
    text = report.markdown(lines, gate, command, runner.draws)
    _write(config.out, whole, text)
    sheets.figure(lines, config.out / "curves.png")
    first = {(row.variant, row.steps): row for row in reversed(rows)}
    looked_at = [first[pair] for pair in SHEET_ROWS if pair in first]
    write_sheets(config, runner, looked_at)
    if config.task == "depth":
        whole["elsewhere"] = found = measure_elsewhere(config, models, judges["A"], beyond.elsewhere, looked_at)
        text += report.markdown_elsewhere(found, lines)
    elif not photos:
        text += report.NO_PHOTOS
    elif config.task == "edit":
        text += report.markdown_edited(edit_photos(config, models, photos, looked_at))
    else:
        whole["photos"] = found = measure_photos(config, models, judges["A"].probe, beyond.photos, looked_at)
        text += report.markdown_photos(found)
    _write(config.out, whole, text)


def _held_out_photos(folder: Path) -> list[Path]:
    """None where there is no such folder, or no such photographs."""
    try:
        return photographs(folder, held_out=True)
    except FileNotFoundError:
        return []


def _homes(folder: Path, card: Card) -> list[Path]:
    """Where a model's own weights lie: in its folder, and those that its low-rank changes apply to in another's."""
    return [folder, folder / card.unet] if card.unet else [folder]


def _of_every_row(card: Card) -> Card:
    """What of a card changes all of its rows; sampler and guidance stand in each row's own name."""
    return replace(card, provenance={}, samplers={}, guidance=1.0, image_guidance=1.0, steps=0, words=())


def _write(out: Path, whole: dict[str, object], text: str) -> None:
    write_json(out / "results.json", whole)
    (out / "results.md").write_text(text, encoding="utf-8")


def write_sheets(config: EvaluateConfig, runner: Runner, rows: list[Row]) -> None:
    """Held-out pictures 0 to 63, unselected: all columns side by side, and 8 x 8 of each."""
    scenes = runner.scenes
    first = np.arange(min(SHOWN, scenes.count))
    columns: dict[str, Tensor] = {
        "given": scenes.shown(first, POCKET_GAMMA),
        "truth": scenes.pictures(first),
    }
    for row in rows:
        columns[f"{row.variant} {row.steps}"] = runner.first_pictures(row)
    asked = scenes.prompts[: len(first)] if config.task == "edit" else ()  # captions of depth maps are too long
    sheets.sheet(columns, 2, asked).save(config.out / "sheet.png")
    for label, pictures in columns.items():
        if label != "given":
            sheets.grid_sheet(pictures).save(config.out / f"sheet-{label.replace(' ', '-')}.png")


def measure_elsewhere(
    config: EvaluateConfig, models: dict[str, Model], judge: Judge, folder: Path, rows: list[Row]
) -> list[dict[str, object]]:
    """Depth error on depth maps that are not from Terra, and their sheet."""
    entries = yaml.safe_load((folder / "elsewhere.yaml").read_text(encoding="utf-8"))
    size = next(iter(models.values())).size
    maps = torch.cat([to_disparity(open_image(folder / e["file"]), size) for e in entries])
    truth = probe_depth(maps)
    columns = {"depth": depth_condition(maps, POCKET_GAMMA)}
    lines: list[dict[str, object]] = []
    for row in rows:
        model = models[row.variant]
        condition = depth_condition(maps, model.card.condition_gamma)
        seeds = [config.seed * 1_000_003 + 950_000 + k for k in range(len(entries))]
        pictures = drawn(model, row.plan(model), condition, [e["prompt"] for e in entries], seeds, config.precision)
        columns[f"{row.variant} {row.steps}"] = pictures
        with torch.no_grad():
            errors = depth_errors(judge.probe(pictures), truth)
        per_map = {e["title"]: round(float(x), 4) for e, x in zip(entries, errors, strict=True)}
        how = {"variant": row.variant, "sampler": row.sampler, "steps": row.steps, "label": row.label}
        lines.append({**how, "depth_error": float(errors.mean()), "maps": per_map})
    config.out.mkdir(parents=True, exist_ok=True)
    sheets.sheet(columns, per_row=2).save(config.out / "elsewhere.png")
    return lines
