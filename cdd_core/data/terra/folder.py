"""Terra as a folder of pictures that people and other tools can read."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cdd_core.data.terra.attributes import ATTRIBUTES, Attributes
from cdd_core.data.terra.captions import caption, instruction
from cdd_core.data.terra.landforms import LANDFORMS
from cdd_core.data.terra.render import Terra
from cdd_core.images import save_disparity_png, save_png, to_pil

BATCH = 16


def edited(before: Attributes, rng: np.random.Generator) -> Attributes:
    """The attributes with one of them, or now and then two, changed."""
    after = before
    for name in rng.permutation(list(ATTRIBUTES))[: 1 + int(rng.random() < 0.25)]:
        others = [value for value in ATTRIBUTES[name] if value != getattr(before, name)]
        after = replace(after, **{str(name): str(rng.choice(others))})
    return after


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
            rngs = [np.random.default_rng((seed, index, 3)) for index in indices]
            before = [Attributes.from_codes(codes) for codes in world.attributes(indices)]
            after = [edited(a, rng) for a, rng in zip(before, rngs, strict=True)]
            first, second = world.render(scenes, before), world.render(scenes, after)
            for k, index in enumerate(indices):
                save_png(to_pil(first.image[k]), out / f"{index:05d}_image.png")
                save_disparity_png(first.disparity[k], out / f"{index:05d}_depth.png")
                save_png(to_pil(second.image[k]), out / f"{index:05d}_edited.png")
                row = {
                    "index": index,
                    "caption": caption(before[k], names[kinds[k]], rngs[k]),
                    "instruction": instruction(before[k], after[k], rngs[k]),
                    "attributes": asdict(before[k]),
                    "edited_attributes": asdict(after[k]),
                    "landform": names[kinds[k]],
                }
                metadata.write(json.dumps(row) + "\n")
