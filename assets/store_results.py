"""Draw what the demo shows of its examples before anybody presses Generate, and the README of all of them:

python assets/store_results.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from app.catalog import read_catalog  # noqa: E402
from app.engine import Engine  # noqa: E402
from app.schema import CompareRequest, StepFrame  # noqa: E402
from app.settings import Settings  # noqa: E402
from app.sheets import labelled_sheet  # noqa: E402
from cdd_core.images import open_image, to_disparity, to_pil  # noqa: E402

HEAD = "# Written by assets/store_results.py with the weights in checkpoints/.\n"


def main() -> None:
    """One run an example, seed 0, at the page's own settings; unselected."""
    settings = Settings(checkpoints=ROOT / "checkpoints", examples=ROOT / "assets" / "examples", family="pocket")
    engine, folder, rows = Engine(settings), ROOT / "assets" / "examples" / "stored", []
    tasks = engine.family().tasks
    folder.mkdir(exist_ok=True)
    for example in read_catalog(settings).examples:
        if example.task not in tasks:
            continue
        for event in engine.compare(CompareRequest(example.file, example.prompt, 0, task=example.task)):
            if isinstance(event, StepFrame) and event.i + 1 == event.n:
                name = f"{example.file.stem}-{event.lane.key}.png"
                (folder / name).write_bytes(event.png)
                lane = {"lane": event.lane.key, "variant": event.lane.variant, "steps": event.n, "nfe": event.nfe}
                rows.append({"example": example.file.name, "file": name, **lane, "family": engine.name})
    (folder / "stored.yaml").write_text(HEAD + yaml.safe_dump(rows, sort_keys=False), encoding="utf-8")
    overview(settings)


def overview(settings: Settings) -> None:
    """One sheet of what is stored for depth: a column for each example, the map above what each lane made of it."""
    examples = [example for example in read_catalog(settings).examples if example.task == "depth"]
    names: dict[str, int] = {"depth map, near is bright": 0}
    cells: dict[tuple[int, int], Image.Image] = {}
    for column, example in enumerate(examples):
        for stored in example.stored:
            row = names.setdefault(f"{stored.variant}, {stored.steps} steps", len(names))
            cells[row, column] = Image.open(stored.file)
        size = cells[1, column].size
        cells[0, column] = to_pil(to_disparity(open_image(example.file), size[0])[0].expand(3, -1, -1))
    sheet = labelled_sheet(list(names), [example.title for example in examples], cells)
    sheet.save(ROOT / "assets" / "overview.png", optimize=True)


if __name__ == "__main__":
    main()
