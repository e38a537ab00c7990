"""Held-out scenes with everything the metrics compare against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cdd_core.data.store import HELD_OUT, TerraStore, render_store
from cdd_core.data.terra.attributes import Attributes
from cdd_core.data.terra.captions import caption
from cdd_core.data.terra.landforms import LANDFORMS
from cdd_core.data.terra.render import Terra
from cdd_core.evaluation.metrics import FeatureSpace, attribute_hits, depth_errors, scale_statistics
from cdd_core.evaluation.probe import Probe, Reading, probe_depth

BATCH = 50


@dataclass(frozen=True)
class HeldOut:
    """``count`` scenes that conditions are taken from and, behind them, ``count`` others as the reference.

    Attributes:
        store: 2 x count rendered scenes; none of them in any training set.
        prompts: for the first ``count``, every attribute mentioned.
        count: n of the tables.
    """

    store: TerraStore
    prompts: list[str]
    count: int

    @classmethod
    def open(cls, folder: Path, count: int, world: int, size: int, workers: int) -> HeldOut:
        """Render what is missing and write the prompts."""
        store = render_store(folder, 2 * count, world, size, HELD_OUT, workers)
        indices = list(range(HELD_OUT, HELD_OUT + count))
        names, kinds = list(LANDFORMS), Terra(world, 64).landforms(indices).tolist()
        prompts = [
            caption(
                Attributes.from_codes(store.codes[row].tolist()),
                names[kinds[row]],
                np.random.default_rng((world, index, 2)),
                keep=1.0,
            )
            for row, index in enumerate(indices)
        ]
        return cls(store, prompts, count)

    def pictures(self, rows: np.ndarray) -> Tensor:
        """True renders in [0, 1], shape (B, 3, S, S)."""
        return self.store.images(rows) / 2 + 0.5


@dataclass(frozen=True)
class Measured:
    """What one probe reads off a set of pictures, row by row.

    Attributes:
        statistics: see ``metrics.scale_statistics``, (N, 2 C_k) each.
        hits: (N, 4), see ``metrics.attribute_hits``.
        depth: (N,), see ``metrics.depth_errors``.
    """

    statistics: list[Tensor]
    hits: Tensor
    depth: Tensor

    @classmethod
    def of(cls, reading: Reading, codes: Tensor, depth: Tensor) -> Measured:
        return cls(scale_statistics(reading), attribute_hits(reading, codes), depth_errors(reading, depth))

    @classmethod
    def join(cls, parts: list[Measured]) -> Measured:
        statistics = [torch.cat(scale) for scale in zip(*(p.statistics for p in parts), strict=True)]
        return cls(statistics, torch.cat([p.hits for p in parts]), torch.cat([p.depth for p in parts]))


class Judge:
    """One probe with its feature space, the reference and the true renders' own figures."""

    def __init__(self, probe: Probe, scenes: HeldOut) -> None:
        self.probe, self.scenes = probe, scenes
        n = scenes.count
        real = self.read_all(lambda rows: scenes.pictures(rows), np.arange(2 * n))
        self.space = FeatureSpace.fit([s[n:] for s in real.statistics])
        self.twins = Measured([s[:n] for s in real.statistics], real.hits[:n], real.depth[:n])
        self.reference = self.points([s[n:] for s in real.statistics], np.arange(n, 2 * n))

    @torch.no_grad()
    def read(self, pictures: Tensor, rows: np.ndarray) -> Measured:
        """Measure pictures (B, 3, S, S) in [0, 1] against the conditions of these rows."""
        codes = self.scenes.store.attributes(rows)
        depth = probe_depth(self.scenes.store.disparities(rows))
        return Measured.of(self.probe(pictures), codes, depth)

    def read_all(self, draw: object, rows: np.ndarray) -> Measured:
        """Measure ``draw(rows)`` in batches."""
        return Measured.join([self.read(draw(part), part) for part in np.array_split(rows, -(-len(rows) // BATCH))])

    def points(self, statistics: list[Tensor], rows: np.ndarray) -> Tensor:
        """Points of the feature space for pictures drawn for the conditions of these rows."""
        codes = self.scenes.store.attributes(rows)
        depth = probe_depth(self.scenes.store.disparities(rows))
        return self.space.points(statistics, codes, depth)
