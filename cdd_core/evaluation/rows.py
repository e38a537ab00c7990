"""The lines of a table before they are measured."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from cdd_core.cards import Card
from cdd_core.config import EvaluateConfig
from cdd_core.evaluation.compare import BICUBIC
from cdd_core.inference import Plan, plan
from cdd_core.loading import Model
from cdd_core.sampler import SOLVERS

STUDENT_STEPS, TEACHER_STEPS = (1, 2, 4, 8), (1, 2, 4, 8, 20, 50)


@dataclass(frozen=True)
class Row:
    """One line of the table before it is measured."""

    task: str
    variant: str
    sampler: str
    steps: int
    guidance: float
    weights: str
    precision: str = "no"
    image_guidance: float = 1.0

    @property
    def label(self) -> str:
        """The row in a few words."""
        picture = "" if self.image_guidance == 1.0 else f"-i{self.image_guidance:g}"
        return f"{self.variant}-{self.sampler}-{self.steps}-g{self.guidance:g}{picture}"

    def plan(self, model: Model) -> Plan:
        """How this row's pictures are drawn by its model."""
        return plan(model, self.steps, self.sampler, self.guidance, self.image_guidance)

    @property
    def key(self) -> str:
        """Name of this row's folder; other weights measure anew."""
        lower = "" if self.precision == "no" else f"-{self.precision}"
        return f"{self.task}-{self.label}-{self.weights}{lower}"


def rows_of(config: EvaluateConfig, models: dict[str, Model], weights: dict[str, str]) -> list[Row]:
    """The lines asked for: the standard table, or the product of variants, samplers, steps and guidance.

    Args:
        config: what is asked for.
        models: by variant.
        weights: fingerprints of models and probes, by variant.
    """
    rows: list[Row] = []
    if config.task == "upscale":
        rows.append(Row(config.task, BICUBIC, "none", 0, 1.0, next(iter(weights.values()))))
    for variant, model in models.items():
        student = model.card.variant == "distilled"
        many = (*TEACHER_STEPS, 250) if config.task == "upscale" else TEACHER_STEPS
        steps = config.steps or (STUDENT_STEPS if student else many)
        for count in (count for count in steps if count <= model.card.stages):
            own = model.card.sampler_for(count)
            rivals = () if student or count not in (4, 8) else ("dpmsolver++", "unipc")
            asked = tuple(name for name in config.samplers if not student or name not in SOLVERS)
            for sampler in asked or (own, *rivals):
                rows.extend(
                    Row(config.task, variant, sampler, count, text, weights[variant], config.precision, image)
                    for text, image in _guidances(config, model.card)
                )
    return rows


def _guidances(config: EvaluateConfig, card: Card) -> list[tuple[float, float]]:
    """Of text and picture: a student's own, which it was trained on; of the undistilled model what was asked for, or
    else its own and, where that costs more evaluations than a student's step, none beside it (docs/metrics.md)."""
    own = (card.guidance, card.image_guidance)
    if card.variant == "distilled":
        return [own]
    if config.guidance or config.image_guidance:
        return list(product(config.guidance or own[:1], config.image_guidance or own[1:]))
    return list(dict.fromkeys([own, (1.0, 1.0)]))


def folder_of(row: Row, config: EvaluateConfig) -> Path:
    """Where what was measured of a row is kept; with all its pictures, if something is yet to look at them."""
    return config.cache / "rows" / f"{row.key}{'-pictures' if config.imagenet else ''}"
