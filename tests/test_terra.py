"""Terra: the same scene from the same index, exact depth, attributes that show, words that are true."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cdd_core.checkpoint import read_json, write_json
from cdd_core.data import store
from cdd_core.data.terra import captions
from cdd_core.data.terra.attributes import ATTRIBUTES, Attributes, encode
from cdd_core.data.terra.captions import caption, instruction, instruction_at_once
from cdd_core.data.terra.edits import Edit, edit_of
from cdd_core.data.terra.landforms import LANDFORMS
from cdd_core.data.terra.march import march, ray_slopes
from cdd_core.data.terra.render import Rendering, Terra
from cdd_core.data.terra.scene import Scene

COUNT, SIZE = 64, 64
INDICES = list(range(COUNT))
EVERY = [Attributes(*values) for values in itertools.product(*ATTRIBUTES.values())]
WORDS = {"time": captions.TIME, "season": captions.SEASON, "weather": captions.WEATHER, "water": captions.WATER}
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def world(device: torch.device) -> Terra:
    return Terra(seed=3, size=SIZE, device=device)


@pytest.fixture(scope="module")
def scenes(world: Terra) -> Scene:
    return world.scenes(INDICES)


@pytest.fixture(scope="module")
def dry(world: Terra, scenes: Scene) -> Rendering:
    return world.render(scenes, [Attributes()] * COUNT)


@pytest.fixture(scope="module")
def lakes(world: Terra, scenes: Scene) -> Rendering:
    return world.render(scenes, [Attributes(water="lake")] * COUNT)


def test_a_scene_is_the_same_alone_and_in_any_batch(world: Terra, scenes: Scene, device: torch.device):
    codes = world.attributes(INDICES)
    together = world.render(scenes, codes)
    other = Terra(seed=3, size=SIZE, device=device)
    for chosen in ([5], [40, 5, 7]):
        again = other.render(other.scenes(chosen), other.attributes(chosen))
        torch.testing.assert_close(again.image, together.image[chosen], **CLOSE)
        torch.testing.assert_close(again.disparity, together.disparity[chosen], **CLOSE)
        assert torch.equal(other.attributes(chosen), codes[chosen])
        assert torch.equal(other.landforms(chosen), world.landforms(INDICES)[chosen])


def test_index_and_seed_choose_the_scene(world: Terra, dry: Rendering, device: torch.device):
    depth = dry.disparity.flatten(1)
    apart = torch.cdist(depth, depth, p=1) / depth.shape[1]
    apart.fill_diagonal_(torch.inf)
    assert apart.min() > 0.005
    elsewhere = Terra(seed=4, size=SIZE, device=device)
    moved = elsewhere.render(elsewhere.scenes([0]), [Attributes()])
    assert (moved.disparity - dry.disparity[:1]).abs().mean() > 0.005


def test_rendering_touches_no_global_randomness(world: Terra):
    before, numbers = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    world.render(world.scenes([1]), world.attributes([1]))
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(numbers, np.random.get_state()[1])  # noqa: NPY002


def test_shapes_and_ranges(dry: Rendering, lakes: Rendering):
    for drawn in (dry, lakes):
        assert drawn.image.shape == (COUNT, 3, SIZE, SIZE)
        assert drawn.disparity.shape == (COUNT, 1, SIZE, SIZE)
        for part in (drawn.image, drawn.disparity):
            assert part.isfinite().all()
            assert part.min() >= 0
            assert part.max() <= 1
        nearest = drawn.disparity.amax((1, 2, 3))
        assert nearest.min() > 0.95, "the nearest point is 1, but for the averaging of pixels"


def test_sky_is_exactly_zero_and_ground_is_not(world: Terra, scenes: Scene, dry: Rendering):
    hits = march(scenes.height, scenes.camera, ray_slopes(scenes.horizon, world.pixels), world.lattice)

    def whole(mask: torch.Tensor) -> torch.Tensor:
        """Pixels of the picture whose neighbourhood is all of this kind."""
        rows = (~mask).float().transpose(1, 2)[:, None]
        spread = F.max_pool2d(rows, 5, stride=1, padding=2)
        return F.interpolate(spread, size=(SIZE, SIZE), mode="bilinear", antialias=True) == 0

    sky, ground = whole(~hits.ground), whole(hits.ground & (hits.z < 40))
    assert sky.float().mean() > 0.05
    assert (dry.disparity[sky] == 0).all()
    assert ground.float().mean() > 0.2
    assert (dry.disparity[ground] > 0).all()


def test_disparity_is_inverse_distance(world: Terra, scenes: Scene, dry: Rendering):
    """Ranks against the rays themselves: nearer is brighter."""
    hits = march(scenes.height, scenes.camera, ray_slopes(scenes.horizon, SIZE), world.lattice)
    columns = torch.linspace(0, hits.z.shape[1] - 1, SIZE).round().long()
    inverse = torch.where(hits.ground, 1 / hits.z, torch.zeros_like(hits.z))[:, columns].transpose(1, 2).flatten(1)
    seen = dry.disparity.flatten(1)
    correlation = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(inverse, seen, strict=True)]
    assert min(correlation) > 0.9


@pytest.mark.parametrize("name", ["time", "season", "weather"])
def test_only_water_moves_the_ground(world: Terra, scenes: Scene, dry: Rendering, lakes: Rendering, name: str):
    few = torch.arange(16, device=world.device)
    for before, water in ((dry, "dry"), (lakes, "lake")):
        for value in ATTRIBUTES[name][1:]:
            after = world.render(scenes.take(few), [Attributes(**{name: value, "water": water})] * len(few))
            assert torch.equal(after.disparity, before.disparity[few])
            assert (after.image - before.image[few]).abs().mean((1, 2, 3)).min() > 0.01, f"{value} must show"


def test_a_lake_is_flat_and_changes_picture_and_depth(dry: Rendering, lakes: Rendering):
    changed = ((dry.image - lakes.image).abs().amax(1) > 0.02).float().mean((1, 2))
    assert changed.min() > 0.03
    moved = ((dry.disparity - lakes.disparity).abs() > 1e-3).float().mean((1, 2, 3))
    assert moved.min() > 0.02
    # Water is level, so along the rows of a lake distance does not change: more of the picture has no sideways slope.
    level = [(r.disparity.diff(dim=3).abs() < 1e-6) & (r.disparity[..., 1:] > 0) for r in (dry, lakes)]
    assert level[1].float().mean() > level[0].float().mean() + 0.05


def test_light_and_air_are_what_they_say(world: Terra, scenes: Scene, dry: Rendering):
    night = world.render(scenes, [Attributes(time="night")] * COUNT).image
    assert (night.mean((1, 2, 3)) < 0.7 * dry.image.mean((1, 2, 3))).all()
    fog = world.render(scenes, [Attributes(weather="fog")] * COUNT).image
    far = ((dry.disparity > 0.01) & (dry.disparity < 0.1)).expand_as(fog)
    assert fog[far].std() < 0.8 * dry.image[far].std(), "fog takes the colours of far ground"
    winter = world.render(scenes, [Attributes(season="winter")] * COUNT).image
    below = dry.disparity > 0.05
    greenness = [float((p[:, 1:2] - p.mean(1, keepdim=True))[below].mean()) for p in (dry.image, winter)]
    assert greenness[0] > greenness[1] + 0.02


def test_no_view_is_blocked(world: Terra, scenes: Scene, dry: Rendering, lakes: Rendering):
    hits = march(scenes.height, scenes.camera, ray_slopes(scenes.horizon, world.pixels), world.lattice)
    sky = (dry.disparity == 0).float().mean((1, 2, 3))
    assert sky.max() <= 0.75
    close = (hits.ground & (hits.z < 1.6)).float().mean((1, 2))
    assert close.max() < 0.03, "a wall before the lens"
    spread = torch.where(hits.ground, hits.z, hits.z.new_tensor(64.0)).log().flatten(1).std(1)
    assert spread.min() > 0.3, "a blank plain"
    assert (dry.image.flatten(1).std(1) > 0.02).all()
    assert (lakes.image.flatten(1).std(1) > 0.02).all()


def test_every_attribute_and_landform_turns_up(world: Terra):
    many = list(range(2000))
    for column, values in enumerate(ATTRIBUTES.values()):
        share = torch.bincount(world.attributes(many)[:, column], minlength=len(values)) / len(many)
        assert (share * len(values) - 1).abs().max() < 0.2
    assert set(world.landforms(many).tolist()) == set(range(len(LANDFORMS)))


def test_attributes_survive_their_codes():
    assert len(EVERY) == 64
    for one in EVERY:
        assert Attributes.from_codes(one.codes()) == one
    batch = encode(EVERY)
    assert batch.shape == (64, 4)
    assert [Attributes.from_codes(row) for row in batch] == EVERY
    assert len({tuple(row) for row in batch.tolist()}) == 64


@pytest.mark.parametrize("name", list(ATTRIBUTES))
def test_unknown_values_are_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} is one of"):
        Attributes(**{name: "sideways"})


def says(text: str, phrases: tuple[str, ...]) -> bool:
    """Whether a phrase stands in the text as whole words."""
    words = " ".join(text.replace(",", " ").replace("?", " ").split())
    return any(f" {phrase} " in f" {words} " for phrase in phrases)


@pytest.mark.parametrize("name", list(ATTRIBUTES))
def test_captions_name_what_is_there_and_nothing_else(name: str):
    rng = np.random.default_rng(0)
    for value in ATTRIBUTES[name]:
        told = []
        for _ in range(300):
            others = {k: str(rng.choice(v)) for k, v in ATTRIBUTES.items() if k != name}
            text = caption(Attributes(**{name: value}, **others), str(rng.choice(list(LANDFORMS))), rng)
            told.append(says(text, WORDS[name][value]))
            for wrong in set(ATTRIBUTES[name]) - {value}:
                assert not says(text, WORDS[name][wrong]), f"{text!r} says {wrong}, but it is {value}"
        assert 0.75 < np.mean(told) < 0.95, "mentioned in most captions, left out in some"


def test_captions_are_reproducible_and_vary():
    def some(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [caption(Attributes(), "hills", rng) for _ in range(50)]

    assert some(0) == some(0)
    assert len(set(some(0))) > 30
    assert all(text == text.strip() and "  " not in text and ", ," not in text for text in some(1))


def test_instructions_ask_for_the_change_alone():
    rng = np.random.default_rng(0)
    for before, after in itertools.product(EVERY[::5], EVERY[::3]):
        if before == after:
            continue
        text = instruction(before, after, rng)
        for name in ("time", "season"):
            changed = getattr(before, name) != getattr(after, name)
            assert says(text, captions.NOUNS[getattr(after, name)]) == changed
        changes = sum(getattr(before, name) != getattr(after, name) for name in ATTRIBUTES)
        assert text.count(" and ") == changes - 1


def test_season_and_time_are_asked_for_in_one_breath_too():
    """In no other words than the tokenizer and the text encoder learnt."""
    edit = Edit(Attributes("noon", "summer", "clear", "dry"), Attributes("night", "winter", "clear", "dry"))
    said = {edit.ask(np.random.default_rng(seed)) for seed in range(300)}
    assert "turn this into a winter night" in said
    assert any(" and " in text for text in said)
    rng, learnt = np.random.default_rng(0), set()
    for before, after in itertools.permutations(EVERY, 2):
        learnt |= set(re.findall("[a-z-]+", caption(after, "hills", rng) + " " + instruction(before, after, rng)))
    for after in 4 * EVERY:
        words = set(re.findall("[a-z-]+", instruction_at_once(after, rng)))
        assert words <= learnt
        assert words & set(captions.INSTRUCTION_WORDS)


def test_every_instruction_holds_a_word_that_says_what_is_wished_for():
    """And the words around it are not among them, so that an empty wish can be told from a real one."""
    known = set(captions.INSTRUCTION_WORDS)
    rng = np.random.default_rng(0)
    for before, after in itertools.product(EVERY[::5], EVERY[::3]):
        if before != after:
            assert known & set(re.findall("[a-z]+", instruction(before, after, rng)))
    for pattern in captions.PATTERNS:
        assert not known & set(re.findall("[a-z]+", pattern.format("")))


@pytest.mark.parametrize("same", [Attributes(), Attributes("night", "winter", "fog", "lake")])
def test_nothing_to_change_is_no_instruction(same: Attributes):
    with pytest.raises(ValueError, match="the same"):
        instruction(same, same, np.random.default_rng(0))


def test_an_edit_changes_one_or_two_attributes_and_belongs_to_its_index():
    edits = [edit_of(0, index, Attributes()) for index in range(200)]
    changed = [sum(a != b for a, b in zip(e.before.codes(), e.after.codes(), strict=True)) for e in edits]
    assert set(changed) == {1, 2}
    assert 0.15 < changed.count(2) / 200 < 0.35
    assert [edit_of(0, index, Attributes()) for index in range(200)] == edits
    assert [edit_of(1, index, Attributes()) for index in range(200)] != edits
    assert edits[0].reversed.reversed == edits[0]


def test_a_store_cut_off_goes_on_and_is_the_same(tmp_path, monkeypatch):
    """Rendered at once by this process, or cut off and finished by two others, or killed just before its end."""
    monkeypatch.setattr(store, "BLOCK", 4)
    whole = store.render_store(tmp_path / "whole", 10, 3, 32, 0, 1)
    rendered, original = [], store._render_block

    def dying(*rows: object) -> None:
        if rendered:
            raise KeyboardInterrupt
        rendered.append(rows)
        original(*rows)

    monkeypatch.setattr(store, "_render_block", dying)
    with pytest.raises(KeyboardInterrupt):
        store.render_store(tmp_path / "cut", 10, 3, 32, 0, 1)
    monkeypatch.setattr(store, "_render_block", original)
    with pytest.raises(FileNotFoundError, match="holds no rendered Terra"):
        store.TerraStore.open(tmp_path / "cut")
    again = store.render_store(tmp_path / "cut", 10, 3, 32, 0, 2)
    for name in store.ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    (tmp_path / "cut" / "store.json").unlink()
    assert len(store.render_store(tmp_path / "cut", 10, 3, 32, 0, 2)) == 10
    with pytest.raises(ValueError, match="holds another Terra"):
        store.render_store(tmp_path / "cut", 11, 3, 32, 0, 1)


def test_what_was_begun_on_a_gpu_is_ended_there(tmp_path, monkeypatch):
    """And what is whole is read anywhere."""
    monkeypatch.setattr(store, "BLOCK", 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    store.render_store(tmp_path, 6, 3, 32, 0, 1)
    progress = read_json(tmp_path / "progress.json")
    write_json(tmp_path / "progress.json", {**progress, "device": "cuda"})
    assert len(store.render_store(tmp_path, 6, 3, 32, 0, 1)) == 6
    assert store.drawn_on(tmp_path, "cuda:1") == "cuda:1"
    assert store.drawn_on(tmp_path, "cpu") == "cuda", "where its pairs have to come from, too"
    assert store.drawn_on(tmp_path / "nothing", "cpu") == "cpu"
    write_json(tmp_path / "progress.json", {**progress, "device": "cuda", "done": [0]})
    with pytest.raises(ValueError, match="begun on a GPU"):
        store.render_store(tmp_path, 6, 3, 32, 0, 1)
    write_json(tmp_path / "progress.json", {**progress, "done": [0]})
    assert len(store.render_store(tmp_path, 6, 3, 32, 0, 1, device="cuda")) == 6, "begun on a CPU, and ended there"
