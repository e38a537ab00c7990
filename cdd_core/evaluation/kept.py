"""Measured rows beside the table, small enough to publish: who measures another student draws nothing but its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cdd_core.evaluation.compare import COMPARED, Line, Spread

TRUTH = ("attribute_accuracy", "depth_error", "fd_real")  # of the gate
ROW = "row"  # what a file says beside its draws
NEAR = 1e-3  # relative: processors round differently


class KeptRows:
    """A file for each row: its line, and the draws that intervals of two rows are made of.

    Args:
        out: folder that rows are written to.
        known: folders that may hold rows from elsewhere.
        gate: what the probes read off true renders here, see ``Runner.gate``. Rows whose judges read something else
            are of another world, and aren't used.
    """

    def __init__(self, out: Path, known: Sequence[Path], gate: dict[str, dict[str, object]]) -> None:
        self.out, self.folders = out, (out, *known)
        self.truth = {f"{name}.{figure}": float(entry[figure]) for name, entry in gate.items() for figure in TRUTH}

    def find(self, label: str, key: str) -> tuple[Line, dict[str, Spread]] | None:
        """The line and, by probe and figure, its draws (R,); None if there is none of this key.

        Args:
            label: of the row; the file's name.
            key: changes with whatever the row depends on.
        """
        for path in (folder / f"{label}.safetensors" for folder in self.folders):
            if not path.is_file():
                continue
            with safe_open(path, "pt") as kept:
                told = json.loads(kept.metadata()[ROW])
                if told["key"] != key or not self._same_world(told["truth"]):
                    continue
                draws: dict[str, Spread] = {}
                for name in kept.keys():  # noqa: SIM118, it is no dictionary
                    probe, figure = name.split(".")
                    draws.setdefault(probe, {})[figure] = kept.get_tensor(name).double().numpy()
            line = told["line"]
            if path.parent != self.out:  # a table has all its rows beside it
                self.keep(label, key, line, draws)
            return line, draws
        return None

    def keep(self, label: str, key: str, line: Line, draws: dict[str, Spread]) -> tuple[Line, dict[str, Spread]]:
        """Write a row, whole or not at all, and return it as it will be read; arguments as :meth:`find` gives them."""
        tensors = {
            f"{probe}.{figure}": torch.from_numpy(np.asarray(values, np.float32))
            for probe, spread in draws.items()
            for figure, values in spread.items()
            if figure in COMPARED
        }
        told = {ROW: json.dumps({"key": key, "line": line, "truth": self.truth})}  # of several, the order would vary
        self.out.mkdir(parents=True, exist_ok=True)
        partial = self.out / f"{label}.partial"
        save_file(tensors, partial, metadata=told)
        partial.replace(self.out / f"{label}.safetensors")
        return self.find(label, key)

    def _same_world(self, truth: dict[str, float]) -> bool:
        return truth.keys() == self.truth.keys() and all(
            np.isclose(truth[name], value, rtol=NEAR) for name, value in self.truth.items()
        )
