"""Terra as a folder of pictures that people and other tools can read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cdd_core.data.terra.attributes import Attributes
from cdd_core.data.terra.captions import caption
from cdd_core.data.terra.edits import edit_of
from cdd_core.data.terra.landforms import LANDFORMS
from cdd_core.data.terra.render import Terra
from cdd_core.images import to_pil
from cdd_core.png import save_disparity_png, save_png

BATCH = 16
WORDS = 4  # stream of the random numbers that choose the words


def write_folder(out: Path, count: int, size: int, seed: int) -> None:
    """Write ``00000_image.png``, ``00000_depth.png`` (16 bit), ``00000_edited.png`` ... and ``metadata.jsonl``.

    Args:
        out: made if needed.
        count: scenes, from index 0 of the world on.
        size: pixels a side.
        seed: which world.

    Raises:
        ValueError: no scenes asked for, or pictures too small to show anything.
    """
    if count < 1 or size < 32:
        raise ValueError("render at least one scene of at least 32 pixels a side")
    out.mkdir(parents=True, exist_ok=True)
    world, names = Terra(seed, size), list(LANDFORMS)
    with open(out / "metadata.jsonl", "w", encoding="utf-8") as metadata:
        for start in tqdm(range(0, count, BATCH), unit="batch"):
            indices = list(range(start, min(start + BATCH, count)))
            scenes, kinds = world.scenes(indices), world.landforms(indices).tolist()
            before = [Attributes.from_codes(codes) for codes in world.attributes(indices)]
            edits = [edit_of(seed, index, given) for index, given in zip(indices, before, strict=True)]
            first, second = world.render(scenes, before), world.render(scenes, [edit.after for edit in edits])
            for k, index in enumerate(indices):
                rng = np.random.default_rng((seed, index, WORDS))
                save_png(to_pil(first.image[k]), out / f"{index:05d}_image.png")
                save_disparity_png(first.disparity[k], out / f"{index:05d}_depth.png")
                save_png(to_pil(second.image[k]), out / f"{index:05d}_edited.png")
                row = {
                    "index": index,
                    "caption": caption(before[k], names[kinds[k]], rng),
                    "instruction": edits[k].ask(rng),
                    "attributes": asdict(before[k]),
                    "edited_attributes": asdict(edits[k].after),
                    "landform": names[kinds[k]],
                }
                metadata.write(json.dumps(row) + "\n")
