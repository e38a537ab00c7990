"""Held-out scenes with everything the metrics compare against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cdd_core.data.small import VERSION, Enlarged, kept_shown
from cdd_core.data.store import HELD_OUT, TerraStore, render_store
from cdd_core.data.terra.attributes import Attributes
from cdd_core.data.terra.captions import caption
from cdd_core.data.terra.edits import edit_of
from cdd_core.data.terra.landforms import LANDFORMS
from cdd_core.data.terra.render import Terra
from cdd_core.evaluation.metrics import (
    FeatureSpace,
    attribute_hits,
    depth_errors,
    paired_figures,
    scale_statistics,
)
from cdd_core.evaluation.probe import Probe, probe_depth
from cdd_core.tasks import depth_condition

BATCH = 50


@dataclass(frozen=True)
class HeldOut:
    """``count`` scenes to be drawn and, behind them, ``count`` others as the reference.

    Attributes:
        store: 2 x count scenes as they should be drawn; none of them in any training set.
        prompts: for the first ``count``: captions with every attribute mentioned, or instructions.
        count: n of the tables.
        given: what the models are shown of the first ``count``: the scenes before their change, or small and damaged;
            None where depth is shown.
        shown_as: version of how that was made of the scenes, where it wasn't rendered.
        before: attributes of the scenes before their change, codes of shape (count, 4); None where nothing changes.
    """

    store: TerraStore
    prompts: list[str]
    count: int
    given: TerraStore | Enlarged | None = None
    before: np.ndarray | None = None
    shown_as: str = ""

    @classmethod
    def open(cls, folder: Path, task: str, count: int, world: int, size: int, workers: int) -> HeldOut:
        """Render what is missing and write the prompts."""
        indices = list(range(HELD_OUT, HELD_OUT + count))
        rngs = [np.random.default_rng((world, index, 2)) for index in indices]
        if task == "edit":
            given = render_store(folder / "before", count, world, size, HELD_OUT, workers)
            store = render_store(folder / "after", 2 * count, world, size, HELD_OUT, workers, edited=True)
            before = [Attributes.from_codes(codes) for codes in given.codes.tolist()]
            edits = [edit_of(world, index, a) for index, a in zip(indices, before, strict=True)]
            prompts = [edit.ask(rng) for edit, rng in zip(edits, rngs, strict=True)]
            return cls(store, prompts, count, given, given.codes)
        store = render_store(folder / "scenes", 2 * count, world, size, HELD_OUT, workers)
        if task == "upscale":
            small = kept_shown(store.first(count), folder, HELD_OUT)
            return cls(store, [""] * count, count, small, shown_as=f"degradations {VERSION}")
        names, kinds = list(LANDFORMS), Terra(world, 64).landforms(indices).tolist()
        attributes = [Attributes.from_codes(codes) for codes in store.codes[:count].tolist()]
        prompts = [caption(a, names[k], rng, keep=1.0) for a, k, rng in zip(attributes, kinds, rngs, strict=True)]
        return cls(store, prompts, count)

    def pictures(self, rows: np.ndarray) -> Tensor:
        """True renders in [0, 1], shape (B, 3, S, S)."""
        return self.store.images(rows) / 2 + 0.5

    def shown(self, rows: np.ndarray, gamma: float) -> Tensor:
        """What the models are shown, in [0, 1], shape (B, 3, S, S).

        Args:
            rows: below ``count``.
            gamma: of the depth condition.
        """
        if self.given is not None:
            return self.given.images(rows) / 2 + 0.5
        return depth_condition(self.store.disparities(rows), gamma)

    @property
    def asked(self) -> Tensor:
        """Which attributes were to be changed, bool, (count, 4); all of them where none were given."""
        after = torch.from_numpy(self.store.codes[: self.count].astype(np.int64))
        if self.before is None:
            return torch.ones_like(after, dtype=torch.bool)
        return after != torch.from_numpy(self.before.astype(np.int64))


@dataclass(frozen=True)
class Measured:
    """What one probe reads off a set of pictures, row by row.

    Attributes:
        statistics: see ``metrics.scale_statistics``, (N, 3 C_k) each.
        hits: (N, 4), see ``metrics.attribute_hits``.
        depth: (N,), see ``metrics.depth_errors``.
        paired: (N, 3 or 4), see ``metrics.paired_figures``; (N, 0) where they were not compared.
    """

    statistics: list[Tensor]
    hits: Tensor
    depth: Tensor
    paired: Tensor

    @classmethod
    def join(cls, parts: list[Measured]) -> Measured:
        statistics = [torch.cat(scale) for scale in zip(*(p.statistics for p in parts), strict=True)]
        rest = (torch.cat([getattr(p, name) for p in parts]) for name in ("hits", "depth", "paired"))
        return cls(statistics, *rest)

    def first(self, count: int) -> Measured:
        """The first rows alone."""
        return Measured(
            [s[:count] for s in self.statistics], self.hits[:count], self.depth[:count], self.paired[:count]
        )


class Judge:
    """One probe with its feature space, the reference and the true renders' own figures."""

    def __init__(self, probe: Probe, scenes: HeldOut) -> None:
        self.probe, self.scenes = probe, scenes
        n = scenes.count
        real = self.read_all(lambda rows: scenes.pictures(rows), np.arange(2 * n))
        self.space = FeatureSpace.fit([s[n:] for s in real.statistics])
        self.twins = real.first(n)
        self.reference = self.points([s[n:] for s in real.statistics], np.arange(n, 2 * n))

    @torch.no_grad()
    def read(self, pictures: Tensor, rows: np.ndarray, against_truth: bool = True) -> Measured:
        """Measure pictures (B, 3, S, S) in [0, 1] against the conditions of these rows, and the true renders."""
        codes = self.scenes.store.attributes(rows)
        depth = probe_depth(self.scenes.store.disparities(rows))
        reading, paired = self.probe(pictures), torch.zeros(len(rows), 0)
        if self.scenes.given is not None and against_truth:
            truth = self.scenes.pictures(rows)
            before = None if self.scenes.before is None else self.scenes.shown(rows, 1.0)
            paired = paired_figures(pictures, truth, reading, self.probe(truth), before)
        return Measured(scale_statistics(reading), attribute_hits(reading, codes), depth_errors(reading, depth), paired)

    def read_all(self, draw: Callable[[np.ndarray], Tensor], rows: np.ndarray) -> Measured:
        """Measure ``draw(rows)`` in batches, against conditions alone."""
        parts = np.array_split(rows, -(-len(rows) // BATCH))
        return Measured.join([self.read(draw(part), part, against_truth=False) for part in parts])

    def points(self, statistics: list[Tensor], rows: np.ndarray) -> Tensor:
        """Points of the feature space for pictures drawn for the conditions of these rows."""
        codes = self.scenes.store.attributes(rows)
        depth = probe_depth(self.scenes.store.disparities(rows))
        return self.space.points(statistics, codes, depth)
