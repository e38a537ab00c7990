"""Memory that a family's models take together, against each loaded by itself: what is shared lies there once.

python -m benchmarks.memory --out docs/memory.json
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from torch import nn

from benchmarks.report import publish
from cdd_core.cards import variants_in
from cdd_core.loading import Model, drawing_dtype, load
from cdd_core.tasks import TASKS

MIB = 2**20


def main(family: Path = Path("checkpoints/pocket"), out: Path | None = None) -> dict[str, object]:
    """Load every model of a family as the demo does, and count the bytes of weights that each adds to the others.

    Args:
        family: its folder.
        out: where to write the report, too.
    """
    device, seen, rows, together = torch.device("cpu"), set(), [], {}
    dtype, shared, alone = drawing_dtype(family, device), None, 0.0
    for task in TASKS:
        for variant in variants_in(family / task):
            model = load(family, task, variant, device, shared, dtype, together=together)
            shared = model.components
            whole, added = _bytes(model, set()), _bytes(model, seen)
            alone += whole
            own = "own U-Net" if model.denoiser.unet is not shared.unet else "the shared U-Net"
            rows.append(
                {
                    "model": f"{task}/{variant}",
                    "draws_with": own,
                    "alone_mib": round(whole / MIB, 1),
                    "adds_mib": round(added / MIB, 1),
                }
            )
    total = sum(row["adds_mib"] for row in rows)
    ratio = round(total * MIB / alone, 3)
    return publish(
        {"family": family.name, "models": rows, "together_mib": round(total, 1), "to_each_alone": ratio}, out
    )


def _bytes(model: Model, seen: set[int]) -> int:
    """Bytes of a model's weights that lie in no storage ``seen`` before; they are seen from now on."""
    parts: list[nn.Module] = [model.denoiser, model.components.vae, model.components.text_encoder]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for part in parts
        for tensor in (*part.parameters(), *part.buffers())
    }
    new = {place: size for place, size in storages.items() if place not in seen}
    seen.update(new)
    return sum(new.values())


if __name__ == "__main__":
    tyro.cli(main)
