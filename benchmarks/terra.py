"""Pictures a second of the procedural world, one process, against the same scenes drawn one by one.

python -m benchmarks.terra --out docs/terra.json
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import tyro

from benchmarks.report import publish
from cdd_core.data.terra.render import Terra


def main(
    count: int = 128, batch: int = 16, size: int = 128, device: str = "cpu", out: Path | None = None
) -> dict[str, object]:
    """Build and draw ``count`` scenes in batches, and a quarter as many singly; report both rates."""
    world = Terra(1, size, device)
    world.render(world.scenes([0]), world.attributes([0]))
    rates: dict[str, float] = {}
    for name, step, total in (("batched", batch, count), ("one by one", 1, count // 4)):
        start = time.perf_counter()
        for first in range(0, total, step):
            indices = list(range(first, min(first + step, total)))
            world.render(world.scenes(indices), world.attributes(indices))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        rates[name] = total / (time.perf_counter() - start)
    return publish({"pictures_per_second": rates, "pixels_a_side": size, "threads": torch.get_num_threads()}, out)


if __name__ == "__main__":
    tyro.cli(main)
