"""The examples are what their lists say, and the ray caster sees what geometry says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from assets import raycast
from assets.raycast import EYE, TAN_HALF_FOV, block, relief, sphere
from cdd_core.data.terra.attributes import Attributes
from cdd_core.data.terra.captions import INSTRUCTION_WORDS
from cdd_core.data.terra.render import Terra
from cdd_core.images import open_image, to_disparity
from cdd_core.inference import sample
from cdd_core.loading import load

ASSETS = Path(__file__).parent.parent / "assets"
FIELDS = {"file", "title", "prompt", "source", "licence"}
EDITED = {"firs.png", "meadow.png", "river.png", "oasis.png"}
ENLARGED = {"cup.png", "rocket.png", "shore.png"}
PEAKS = 10_001_002  # named as the source of examples/peaks.png


def rows(name: str) -> list[dict[str, str]]:
    return yaml.safe_load((ASSETS / name / f"{name}.yaml").read_text(encoding="utf-8"))


def test_the_catalogue_lists_what_is_shipped_which_is_small() -> None:
    shipped = ASSETS.parent / "checkpoints"
    listed = yaml.safe_load((shipped / "cards.yaml").read_text(encoding="utf-8"))["models"]
    for row in listed:
        assert row["folder"] == f"{row['family']}/{row['task']}/{row['variant']}"
    assert {row["folder"] for row in listed} == {
        str(card.parent.relative_to(shipped)) for card in shipped.glob("pocket/*/*/cdd.json")
    }
    assert sum(path.stat().st_size for path in shipped.rglob("*.safetensors")) < 90_000_000


@pytest.mark.parametrize(("name", "count"), [("examples", 15), ("elsewhere", 16)])
def test_lists_and_folders_agree(name: str, count: int) -> None:
    listed = rows(name)
    assert len(listed) == count
    for row in listed:
        assert set(row) == FIELDS | ({"task", "truth"} if row["file"] in {*EDITED, *ENLARGED} else set())
        assert all(value for field, value in row.items() if field != "prompt" or row["file"] not in ENLARGED)
    assert len({row["title"] for row in listed}) == count
    assert {row["file"] for row in listed} == {path.name for path in (ASSETS / name).glob("*.png")}


@pytest.mark.parametrize("name", ["examples", "elsewhere"])
def test_maps_are_16_bit_small_and_usable(name: str) -> None:
    for row in (row for row in rows(name) if "task" not in row):
        path = ASSETS / name / row["file"]
        assert path.stat().st_size < 100_000
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("I;16", (256, 256))
        disparity = to_disparity(open_image(path), 64)[0, 0]
        assert disparity[-8:].mean() > disparity.mean(), f"{path.name} is upside down or inverted"


def test_pictures_to_enlarge_are_a_quarter_of_what_they_were() -> None:
    small = [row for row in rows("examples") if row["file"] in ENLARGED]
    assert {(row["task"], row["prompt"]) for row in small} == {("upscale", "")}
    for row in small:
        picture, truth = (Image.open(ASSETS / "examples" / row[which]) for which in ("file", "truth"))
        assert tuple(4 * side for side in picture.size) == truth.size
        shrunk = truth.resize(picture.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(shrunk)).mean() < 20, "the same thing is seen"


@pytest.mark.parametrize("file", sorted(EDITED - {"oasis.png"} | ENLARGED))  # below a lake may be anything
def test_the_shipped_students_draw_what_is_asked(file: str) -> None:
    """Edited pictures come nearer to the true change than doing nothing is, enlarged ones look sharper than bicubic."""
    row = next(row for row in rows("examples") if row["file"] == file)
    model = load(ASSETS.parent / "checkpoints" / "pocket", row["task"])
    given, truth = (Image.open(ASSETS / "examples" / row[which]).convert("RGB") for which in ("file", "truth"))
    *_, last = sample(model, given, row["prompt"], seed=0)
    given = given.resize(last.image.size, Image.Resampling.BICUBIC)
    made, given, truth = (torch.from_numpy(np.array(p)) / 255 for p in (last.image, given, truth.resize(given.size)))
    if file in EDITED:
        assert (made - truth).square().mean() < 0.7 * (given - truth).square().mean()
    else:
        rough = [(p.diff(dim=0).abs().mean() + p.diff(dim=1).abs().mean()) for p in (given, made, truth)]
        assert abs(rough[1] - rough[2]) < abs(rough[0] - rough[2])


def test_pictures_to_edit_are_small_and_ask_for_what_the_editor_knows() -> None:
    edits = [row for row in rows("examples") if row["file"] in EDITED]
    assert {row["task"] for row in edits} == {"edit"}
    for row in edits:
        path = ASSETS / "examples" / row["file"]
        assert path.stat().st_size < 150_000
        with Image.open(path) as image, Image.open(ASSETS / "examples" / row["truth"]) as truth:
            assert (image.mode, image.size) == (truth.mode, truth.size) == ("RGB", (256, 256))
            assert np.abs(np.asarray(image).astype(int) - np.asarray(truth)).mean() > 5, "something changes"
        assert set(re.findall("[a-z]+", row["prompt"])) & set(INSTRUCTION_WORDS)


def test_half_of_the_maps_are_from_elsewhere() -> None:
    elsewhere = {row["file"]: row for row in rows("elsewhere")}
    shared = [row for row in rows("examples") if row["file"] in elsewhere]
    assert len(shared) == 4
    for row in shared:
        assert row == elsewhere[row["file"]]
        files = [ASSETS / folder / row["file"] for folder in ("examples", "elsewhere")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_terra_still_draws_its_example() -> None:
    stored = next(row for row in rows("examples") if row["file"] == "peaks.png")
    assert f"seed 0, index {PEAKS}" in stored["source"]
    world = Terra(seed=0, size=256)
    drawn = world.render(world.scenes([PEAKS]), [Attributes(water="lake")]).disparity
    kept = torch.from_numpy(np.array(open_image(ASSETS / "examples" / "peaks.png")) / 65535).float()
    assert (drawn[0, 0] - kept).abs().mean() < 1e-3


def test_the_ground_is_seen_to_the_horizon() -> None:
    size = 64
    seen = raycast.disparity(sphere((0.0, 1e4, 0.0), 1.0), size)
    below = -((np.arange(2 * size) + 0.5) / size - 1) * TAN_HALF_FOV
    expected = np.maximum(-below, 0).reshape(size, 2).mean(1) / EYE
    np.testing.assert_allclose(seen, np.tile(expected[:, None] / expected.max(), (1, size)), atol=1e-12)


def test_solids_stand_where_they_should() -> None:
    nearest = EYE / TAN_HALF_FOV  # of the ground, nearly
    for solid, distance in (
        (block(0.0, 6.0, 2.0, 4.0, 2.0), 5.0),
        (block(0.0, 6.0, 2.0, 4.0, 2.0, turn=90), 5.0),
        (sphere((0.0, EYE, 7.0), 2.0), 5.0),
    ):
        seen = raycast.disparity(solid, 128)
        assert seen[64, 64] == pytest.approx(nearest / distance, rel=0.01)
        assert seen[0, 0] == 0


def test_a_flat_relief_is_the_ground() -> None:
    flat = relief(lambda x, z: 0 * x, 0.0)
    plain = raycast.disparity(sphere((0.0, 1e4, 0.0), 1.0), 64)
    np.testing.assert_allclose(raycast.disparity(flat, 64, ground=False)[36:], plain[36:], rtol=0.01)
