"""Make what lies in ``examples`` and ``elsewhere``, and the lists of it: ``python -m assets.make_examples``.

Needs the packages of requirements-dev.txt and takes about a minute; the same files come out every time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import torch
import yaml
from torch import Tensor

from assets import scenes
from cdd_core.data.degrade import degrade
from cdd_core.data.terra.attributes import Attributes
from cdd_core.data.terra.render import Terra
from cdd_core.images import open_image, to_picture, to_pil
from cdd_core.png import save_disparity_png
from cdd_core.tasks import UPSCALE

SIZE = 256
TRUTH = "truth"  # folder of what the pictures to be edited should become
HOME = Path(__file__).parent
DRAWN = "Drawn for this project by assets/make_examples.py"
OURS = "MIT, like this repository"
MIDDLEBURY = (
    "Middlebury 2014 stereo benchmark (scene Motorcycle), by Nera Nesic, Porter Westling, Xi Wang, York Kitajima, Greg "
    "Krathwohl and Daniel Scharstein at Middlebury College, as distributed with scikit-image "
    "(skimage.data.stereo_motorcycle); cropped, holes filled"
)
CITE = (
    "Not ours; the documentation of scikit-image states no licence for it. Cite D. Scharstein et al., High-resolution "
    "stereo datasets with subpixel-accurate ground truth, GCPR 2014; see "
    "http://vision.middlebury.edu/stereo/data/scenes2014/"
)


@dataclass(frozen=True)
class FromTerra:
    """An example out of Terra, seed 0; the index is one that training never draws."""

    file: str
    title: str
    prompt: str
    index: int
    water: str


@dataclass(frozen=True)
class ToEdit:
    """A picture out of Terra, likewise, to be changed as the prompt says, and what it then should look like."""

    file: str
    title: str
    prompt: str
    index: int
    looks: Attributes
    changed: Attributes


@dataclass(frozen=True)
class ToEnlarge:
    """A picture that was made four times smaller, and damaged; ``whole(S)`` is what it was, (3, S, S) in [0, 1]."""

    file: str
    title: str
    whole: Callable[[int], Tensor]
    size: int
    damage: float
    source: str
    licence: str
    prompt: str = ""


@dataclass(frozen=True)
class FromElsewhere:
    """A map that is not from Terra, (S, S) in [0, 1] from ``draw(S)``."""

    file: str
    title: str
    prompt: str
    draw: Callable[[int], np.ndarray]
    source: str = DRAWN
    licence: str = OURS


TERRA = (
    FromTerra("peaks.png", "Two peaks by a lake", "snowy peaks at sunset with a lake", 10_001_002, "lake"),
    FromTerra("canyon.png", "A canyon", "a desert canyon at noon in clear weather, without water", 10_001_020, "dry"),
    FromTerra("boulders.png", "Boulders", "round rocks in autumn, at dawn, on a foggy day", 10_001_006, "dry"),
    FromTerra("mountains.png", "Mountains and firs", "green mountains at night by a lake", 10_001_009, "lake"),
)

EDITS = (
    ToEdit(
        "firs.png",
        "Firs by a lake",
        "make it sunset",
        10_001_041,
        Attributes(water="lake"),
        Attributes(time="sunset", water="lake"),
    ),
    ToEdit(
        "meadow.png",
        "Below the peaks",
        "turn this into a winter night",
        10_001_048,
        Attributes(),
        Attributes(time="night", season="winter"),
    ),
    ToEdit(
        "river.png",
        "A river",
        "what if it were autumn?",
        10_001_049,
        Attributes(water="lake"),
        Attributes(season="autumn", water="lake"),
    ),
    ToEdit(
        "oasis.png",
        "Rocks in the evening",
        "remove the lake",
        10_001_053,
        Attributes(time="sunset", season="desert", water="lake"),
        Attributes(time="sunset", season="desert"),
    ),
)


def _rendered(index: int) -> str:
    return f"Terra, seed 0, index {index}, rendered by assets/make_examples.py"


def _landscape(size: int) -> Tensor:
    world = Terra(seed=0, size=size)
    return world.render(world.scenes([10_001_002]), [Attributes(time="dawn", water="lake")]).image[0]


PHOTO = "Photograph by {0}, as distributed with scikit-image (skimage.data.{1}); cropped, made small and damaged"
SMALL = (
    ToEnlarge(
        "cup.png",
        "A cup, damaged",
        lambda size: to_picture(open_image(skimage.data.coffee()), size)[0],
        192,
        0.3,
        PHOTO.format("Rachel Michetti", "coffee"),
        "CC0",
    ),
    ToEnlarge(
        "rocket.png",
        "A rocket, damaged",
        lambda size: to_picture(open_image(skimage.data.rocket()), size)[0],
        192,
        0.3,
        PHOTO.format("SpaceX", "rocket"),
        "public domain",
    ),
    ToEnlarge("shore.png", "A shore, small", _landscape, 128, 0.0, f"{_rendered(10_001_002)}; made small", OURS),
)
"""The photographs are of those in docs/photos.md that no training sees."""

ELSEWHERE = (
    FromElsewhere(
        "motorcycle.png", "A motorcycle (measured)", "a snowy landscape at dusk", scenes.motorcycle, MIDDLEBURY, CITE
    ),
    FromElsewhere("boxes_near.png", "Three crates", "blocks of rock in the desert at noon", scenes.boxes_near),
    FromElsewhere("boxes_scattered.png", "Blocks on a plain", "ruins in winter at sunset", scenes.boxes_scattered),
    FromElsewhere("spheres_lying.png", "Balls on a plain", "round rocks in summer at noon", scenes.spheres_lying),
    FromElsewhere(
        "spheres_floating.png", "Balls in the air", "boulders, autumn, in the moonlight", scenes.spheres_floating
    ),
    FromElsewhere("stairs.png", "Stairs", "steps of rock in the desert at dawn", scenes.stairs),
    FromElsewhere("room.png", "A room", "a snowy canyon at noon", scenes.room),
    FromElsewhere("corridor.png", "A corridor", "a gorge in summer at sunset, in fog", scenes.corridor),
    FromElsewhere("table.png", "A table", "a sandy desert plateau at midday", scenes.table),
    FromElsewhere("pyramids.png", "Pyramids", "peaks in the desert under an orange sky", scenes.pyramids),
    FromElsewhere("colonnade.png", "A colonnade", "ruins, snowy, in the early morning", scenes.colonnade),
    FromElsewhere("arch.png", "A gate", "a cliff in summer, in broad daylight", scenes.arch),
    FromElsewhere("city.png", "A street", "an autumn canyon at night in clear air", scenes.city),
    FromElsewhere("hills_painted.png", "Painted hills", "rolling hills in winter at sunset", scenes.hills_painted),
    FromElsewhere("valley.png", "A valley", "a green valley at daybreak with misty air", scenes.valley),
    FromElsewhere("waves.png", "Waves", "long dunes in the desert under the stars", scenes.waves),
)

SHARED = ("motorcycle.png", "arch.png", "city.png", "hills_painted.png")
"""Maps from elsewhere that the app offers too."""


def make_terra(folder: Path) -> list[dict[str, str]]:
    """Render the Terra examples into the folder; their rows."""
    world = Terra(seed=0, size=SIZE)
    drawn = world.render(
        world.scenes([example.index for example in TERRA]), [Attributes(water=example.water) for example in TERRA]
    )
    for example, disparity in zip(TERRA, drawn.disparity, strict=True):
        save_disparity_png(disparity, folder / example.file)
    return [_row(example, _rendered(example.index), OURS) for example in TERRA]


def make_edits(folder: Path) -> list[dict[str, str]]:
    """Render the pictures to be edited into the folder, and below it those they should become; their rows."""
    world, truth = Terra(seed=0, size=SIZE), folder / TRUTH
    truth.mkdir(exist_ok=True)
    for home, looks in ((folder, [each.looks for each in EDITS]), (truth, [each.changed for each in EDITS])):
        drawn = world.render(world.scenes([example.index for example in EDITS]), looks)
        for example, picture in zip(EDITS, drawn.image, strict=True):
            to_pil(picture).save(home / example.file, optimize=True)
    more = [{"task": "edit", "truth": f"{TRUTH}/{example.file}"} for example in EDITS]
    return [{**_row(e, _rendered(e.index), OURS), **facts} for e, facts in zip(EDITS, more, strict=True)]


def make_small(folder: Path) -> list[dict[str, str]]:
    """Write the pictures to be enlarged into the folder, and below it what they were; their rows."""
    (folder / TRUTH).mkdir(exist_ok=True)
    rows = []
    for example in SMALL:
        whole = example.whole(example.size)
        small = degrade(whole, UPSCALE, example.damage, torch.Generator().manual_seed(0))
        to_pil(whole).save(folder / TRUTH / example.file, optimize=True)
        to_pil(small).save(folder / example.file, optimize=True)
        facts = {"task": "upscale", "truth": f"{TRUTH}/{example.file}"}
        rows.append({**_row(example, example.source, example.licence), **facts})
    return rows


def make_elsewhere(folder: Path) -> list[dict[str, str]]:
    """Draw the maps that are not from Terra into the folder; their rows."""
    for item in ELSEWHERE:
        save_disparity_png(torch.from_numpy(item.draw(SIZE))[None], folder / item.file)
    return [_row(item, item.source, item.licence) for item in ELSEWHERE]


def _row(item: FromTerra | ToEdit | ToEnlarge | FromElsewhere, source: str, licence: str) -> dict[str, str]:
    return {"file": item.file, "title": item.title, "prompt": item.prompt, "source": source, "licence": licence}


def _write_list(path: Path, rows: list[dict[str, str]]) -> None:
    text = "\n".join(yaml.safe_dump([row], sort_keys=False, allow_unicode=True, width=100) for row in rows)
    path.write_text("# Written by assets/make_examples.py; change it there.\n" + text, encoding="utf-8")


def main() -> None:
    """Write both folders."""
    examples, elsewhere = HOME / "examples", HOME / "elsewhere"
    rows = make_elsewhere(elsewhere)
    _write_list(elsewhere / "elsewhere.yaml", rows)
    shown = make_terra(examples)
    for row in rows:
        if row["file"] in SHARED:
            shutil.copyfile(elsewhere / row["file"], examples / row["file"])
            shown.append(row)
    shown += make_edits(examples) + make_small(examples)
    _write_list(examples / "examples.yaml", shown)


if __name__ == "__main__":
    main()
