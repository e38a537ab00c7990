"""From a finished run to the folder that is shipped of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from cdd_core.cards import CARD
from cdd_core.checkpoint import read_json, write_json, written_whole
from cdd_core.config import CddConfig, LoopConfig, NetConfig
from cdd_core.data.terra.captions import INSTRUCTION_WORDS
from cdd_core.export import distilled_card, export_adapter, export_base, undistilled_card
from cdd_core.models import LORA, load_module
from cdd_core.provenance import CARD_FACTS, RECORD, SHIPPED_RECORD, read_record, refuse_unfinished
from cdd_core.tasks import TASKS
from cdd_core.workshop import BASE_PARTS, Workshop


def export_run(shop: Workshop, run: Path, out: Path) -> None:
    """Write a finished run as inference weights: ``base``, ``TASK/undistilled`` or ``TASK/distilled`` of a family.

    Raises:
        FileNotFoundError: the run has no export yet, or a part it stands on is missing.
        ValueError: the run goes on, its stage is not shipped by itself, or ``out`` is a folder of something else.
    """
    others = out.is_dir() and any(out.iterdir())
    if others and not any((out / name).is_file() for name in (CARD, SHIPPED_RECORD)):
        raise ValueError(f"{out} holds something else than exported weights, which would be gone; choose a new folder")
    refuse_unfinished(run)
    with written_whole(out) as whole:  # of an older export nothing may stay: its U-Net would be drawn with
        _export(shop, run, whole)


def _export(shop: Workshop, run: Path, out: Path) -> None:
    record = read_record(run)
    if not (run / "export").is_dir():
        raise FileNotFoundError(f"{run} has exported nothing yet; let it go on")
    stage, known = str(record["stage"]), record.pop(CARD_FACTS, {})
    if stage == "probe":
        shutil.copyfile(run / "export" / "probe.safetensors", out / "probe.safetensors")
        write_json(out / SHIPPED_RECORD, record)
        return
    if stage == "base":
        shipped = shop.shipped / "base" / SHIPPED_RECORD  # of the parts that weren't trained here
        parts = read_json(shipped).get("parts", {}) if shipped.is_file() else {}
        parts |= {name: read_record(shop.runs / name) for name in BASE_PARTS if (shop.runs / name / RECORD).is_file()}
        export_base(shop.components(), out, {**record, "parts": parts})
        return
    if stage not in (*TASKS, "distill"):
        raise ValueError(f"a {stage} run is shipped as a part of base; export the base run")
    parts = {f.name: load_module(f) for f in sorted((run / "export").iterdir()) if (f / "config.json").exists()}
    steps = shop.components().schedule.steps
    facts = known or shop.card_facts(stage if stage in TASKS else str(record["config"]["task"]))
    gamma, sizes = facts["condition_gamma"], tuple(facts["sizes"])
    if stage in TASKS:
        task = TASKS[stage]
        card = undistilled_card(stage, record, steps, gamma, task.text_guidance, task.image_guidance)
        card = replace(card, sizes=sizes)
    else:
        kind = "controlnet" if "controlnet" in parts else "concat"
        card = distilled_card(_recorded(record), record, gamma, kind, sizes)
    if card.task == "edit" and not facts["own"]:
        card = replace(card, words=INSTRUCTION_WORDS)
    lora = run / "export" / LORA
    export_adapter(parts, lora if lora.is_dir() else None, card, out)


def _recorded(record: dict[str, object]) -> CddConfig:
    """The recipe of a run as it was, overrides of its preset included."""
    config = dict(record["config"])
    config["samplers"] = tuple((int(steps), str(sampler)) for steps, sampler in config["samplers"])
    return CddConfig(**{**config, "loop": LoopConfig(**config["loop"]), "net": NetConfig(**config["net"])})
