"""The demo's engine on tiny models: what it hands out, what it refuses, and who may use the device when."""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pictures import PHOTO, RAMP, RAMP8, encoded, frames
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

import app.engine
import app.engine_models
import app.engine_requests
import cdd_core.inference
from app.engine import Engine
from app.engine_pace import Pace
from app.schema import (
    MAX_SEED,
    CompareRequest,
    EngineError,
    GridRequest,
    Lane,
    RunReport,
    RunStart,
    StepFrame,
    means,
    settings_of,
)
from app.settings import Settings
from cdd_core.png import read_parameters
from cdd_core.sampler import LatentStep

LANES = ["distilled", "same", "full"]


@pytest.fixture(scope="module")
def settings(family: Path, device: torch.device) -> Settings:
    return Settings(checkpoints=family.parent, family=family.name, device=device.type)


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Engine:
    return Engine(settings)


@pytest.fixture
def depth(tmp_path: Path) -> Path:
    path = tmp_path / "depth.png"
    path.write_bytes(encoded(Image.fromarray(RAMP)))
    return path


def run(engine: Engine, request: CompareRequest) -> tuple[RunStart, list[StepFrame], RunReport]:
    start, *steps, report = engine.compare(request)
    assert isinstance(start, RunStart)
    assert isinstance(report, RunReport)
    return start, steps, report


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_three_lanes_in_order(engine: Engine, depth: Path):
    start, steps, report = run(engine, CompareRequest(depth, "a lake", 3, 2, 5))
    assert [lane.key for lane in start.lanes] == LANES
    assert [step.lane.key for step in steps] == ["distilled"] * 2 + ["same"] * 2 + ["full"] * 5
    assert [step.i for step in steps] == [0, 1, 0, 1, *range(5)]
    assert [step.nfe for step in steps] == [1, 2, 1, 2, *range(1, 6)]
    for before, after in pairwise(steps):
        assert before.lane != after.lane or (before.t > after.t and after.seconds > 0)
    assert [lane.lane.key for lane in report.lanes] == LANES
    for lane in report.lanes:
        last = [step for step in steps if step.lane == lane.lane][-1]
        assert (lane.images, lane.nfe, lane.seconds) == ((last.image,), last.nfe, last.seconds)
        assert lane.ms_per_step == pytest.approx(1000 * lane.seconds / lane.lane.steps)
        assert lane.timesteps == tuple(step.t for step in steps if step.lane == lane.lane)
    assert report.speed_up == pytest.approx(report.lanes[2].seconds / report.lanes[0].seconds)
    assert report.family == engine.family().name == engine.name
    assert start.times == {lane.lane.key: lane.timesteps for lane in report.lanes}, "known before they are drawn"


def test_pictures_on_the_way_cost_a_run_nothing(engine: Engine, depth: Path, monkeypatch: pytest.MonkeyPatch):
    """A lane's time is that of all its sampling and of decoding its result; on a clock that knows nothing else."""
    clock, decode, sample = [0.0], cdd_core.inference._pictures, cdd_core.inference._sample_from

    def decoded(*given: object) -> torch.Tensor:
        clock[0] += 10
        return decode(*given)

    def sampled(*given: object) -> Iterator[LatentStep]:
        for step in sample(*given):
            clock[0] += 1
            yield step

    monkeypatch.setattr(cdd_core.inference, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(cdd_core.inference, "_pictures", decoded)
    monkeypatch.setattr(cdd_core.inference, "_sample_from", sampled)
    events = []
    for event in engine.compare(CompareRequest(depth, "a lake", 3, 2, 3, lanes=["distilled", "full"])):
        events.append(event)
        clock[0] += 100  # while the picture is looked at
    _, *steps, report = events
    assert [step.seconds for step in steps] == [11, 12, 11, 12, 13]
    assert [lane.seconds for lane in report.lanes] == [12, 13]


def test_the_condition_is_the_map_as_the_model_sees_it(engine: Engine, depth: Path):
    start, _, _ = run(engine, CompareRequest(depth, "", 0, 1, 1))
    assert start.condition.size == (engine.family().size,) * 2
    rows = pixels(start.condition)[..., 0].mean(1)
    assert rows[0] < 40 < 220 < rows[-1]
    assert len(np.unique(pixels(start.condition))) > 20, "16 bits were not cut to a few levels"
    inverted = engine.look("depth", depth, True).picture
    assert pixels(inverted)[..., 0].mean(1)[0] > 220


def test_the_same_seed_draws_the_same_pictures(engine: Engine, depth: Path):
    first, again, other = (run(engine, CompareRequest(depth, "a lake", seed, 2, 2))[1] for seed in (3, 3, 4))
    assert [s.image.tobytes() for s in first] == [s.image.tobytes() for s in again]
    assert all(a.image.tobytes() != b.image.tobytes() for a, b in zip(first, other, strict=True))


def test_lanes_start_from_the_same_noise(engine: Engine, depth: Path):
    """So the undistilled model's first guess doesn't depend on the number of steps."""
    _, steps, _ = run(engine, CompareRequest(depth, "a lake", 3, 2, 5))
    assert steps[2].image.tobytes() == steps[4].image.tobytes()


def test_inverting_changes_the_picture(engine: Engine, depth: Path):
    plain, inverted = (run(engine, CompareRequest(depth, "", 3, 1, 1, invert))[1] for invert in (False, True))
    assert plain[0].image.tobytes() != inverted[0].image.tobytes()


def test_the_engine_chooses_a_seed_and_tells(engine: Engine, depth: Path):
    start, steps, _ = run(engine, CompareRequest(depth, "", None, 1, 1))
    assert 0 <= start.request.seed <= MAX_SEED
    again = run(engine, CompareRequest(depth, "", start.request.seed, 1, 1))[1]
    assert steps[0].image.tobytes() == again[0].image.tobytes()


def test_numbers_are_brought_inside_their_limits(settings: Settings, depth: Path):
    few = Engine(Settings(**{**vars(settings), "max_steps": 6}))
    start, steps, _ = run(few, CompareRequest(depth, "x" * 5000, -9, 99, 10**9))
    asked = start.request
    assert (asked.seed, asked.distilled_steps, asked.undistilled_steps, len(asked.prompt)) == (0, 8, 6, 1000)
    assert len(steps) == 8 + 8 + 6
    start = next(iter(few.compare(CompareRequest(depth, None, "7", 2.0, "3"))))
    assert (start.request.seed, start.request.undistilled_steps, start.request.prompt) == (7, 3, "")
    assert next(iter(few.compare(CompareRequest(depth, "", 10**30, 0, -5)))).request.seed == MAX_SEED


@pytest.mark.parametrize("field", ["seed", "distilled_steps", "undistilled_steps"])
@pytest.mark.parametrize("value", ["many", float("nan"), float("inf"), [1], ""])
def test_what_is_no_number_is_refused_in_a_sentence(field: str, value: object, engine: Engine, depth: Path):
    with pytest.raises(EngineError, match=r"^The .* must be a whole number, not '.*'\.$"):
        next(iter(engine.compare(CompareRequest(depth, **{field: value}))))


BAD = {
    "text.png": b"not a picture at all",
    "cut.png": encoded(Image.fromarray(RAMP))[:200],
    "one.png": encoded(Image.new("L", (1, 1))),
    "black.png": encoded(Image.new("L", (64, 64))),
    "moving.gif": frames("GIF", 3),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_in_a_sentence(name: str, engine: Engine, tmp_path: Path):
    (tmp_path / name).write_bytes(BAD[name])
    counted = engine.evaluations
    with pytest.raises(EngineError) as refused:
        next(iter(engine.compare(CompareRequest(tmp_path / name))))
    words = str(refused.value)
    assert words.endswith(".")
    assert words.count(". ") == 0
    assert str(tmp_path) not in words
    assert (engine.busy, engine.evaluations) == (False, counted)


def test_unusual_pictures_are_accepted(engine: Engine, tmp_path: Path):
    (tmp_path / "cmyk.jpg").write_bytes(encoded(Image.fromarray(RAMP8).convert("CMYK"), "JPEG"))
    (tmp_path / "float.tiff").write_bytes(encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"))
    for path in sorted(tmp_path.iterdir()):
        assert engine.look("depth", path, False).picture.size == (engine.family().size,) * 2


def test_pictures_remember_how_they_were_made(engine: Engine, depth: Path):
    _, steps, _ = run(engine, CompareRequest(depth, "a läke", 3, 2, 1))
    facts = read_parameters(Image.open(BytesIO(steps[1].png)))
    wanted = {"prompt": "a läke", "seed": 3, "steps": 2, "step": 2, "variant": "distilled", "sampler": "ddim"}
    assert facts.items() >= wanted.items()


def test_evaluations_are_counted_where_they_happen(engine: Engine, depth: Path):
    engine.family()
    before = engine.evaluations
    run(engine, CompareRequest(depth, "", 0, 2, 4))
    assert engine.evaluations == before + 2 + 2 + 4


def test_closing_a_run_frees_the_device_at_once(engine: Engine, depth: Path):
    events = engine.compare(CompareRequest(depth, "", 0, 4, 50))
    for _ in range(8):
        next(events)
    counted = engine.evaluations
    assert engine.busy
    thread = threading.Thread(target=events.close)  # as Gradio does, from another thread
    thread.start()
    thread.join()
    assert not engine.busy
    assert engine.evaluations == counted


def test_a_failure_frees_the_device(engine: Engine, depth: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(app.engine, "draw", fail)
    with pytest.raises(RuntimeError):
        list(engine.compare(CompareRequest(depth, "", 0, 1, 1)))
    assert not engine.busy


def test_runs_take_turns(engine: Engine, depth: Path):
    order: list[str] = []

    def draw(who: str) -> None:
        order.extend(
            who for event in engine.compare(CompareRequest(depth, "", 0, 3, 9)) if isinstance(event, StepFrame)
        )

    threads = [threading.Thread(target=draw, args=(who,)) for who in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "".join(order) in ("a" * 15 + "b" * 15, "b" * 15 + "a" * 15)


def test_who_waits_too_long_is_told(engine: Engine, depth: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app.engine, "BUSY_SECONDS", 0.05)
    first = engine.compare(CompareRequest(depth, "", 0, 2, 2))
    next(first), next(first)
    second = engine.compare(CompareRequest(depth, "", 0, 2, 2))
    next(second)
    with pytest.raises(EngineError, match="still busy"):
        next(second)
    assert engine.busy, "the run that has the device keeps it"
    first.close()


def test_gradients_stay_as_the_consumer_had_them(engine: Engine, depth: Path):
    for _ in engine.compare(CompareRequest(depth, "", 0, 1, 2)):
        assert torch.is_grad_enabled()


def test_models_are_loaded_once_and_share_their_base(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    loaded = []
    original = app.engine_models.load

    def load(*given: object) -> object:
        loaded.append(original(*given))
        return loaded[-1]

    monkeypatch.setattr(app.engine_models, "load", load)
    engine = Engine(settings)
    assert not engine.ready
    engine.start()
    threads = [threading.Thread(target=engine.family) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine.ready
    assert len(loaded) == 2
    assert loaded[0].components is loaded[1].components
    assert loaded[0].denoiser.unet is loaded[1].denoiser.unet
    assert engine.evaluations == 2, "both were warmed up"


def test_data_that_several_models_tell_of_is_told_once_and_whole():
    every = ("20,000 scenes, seed 0", "100,000 scenes, seed 0; 9 squares", "", "", "12 squares; pictures of one's own")
    assert app.engine_models.said_once(every) == "100,000 scenes, seed 0; 12 squares; pictures of one's own"


def test_building_an_engine_loads_nothing(settings: Settings):
    engine = Engine(settings)
    assert (engine.ready, engine.busy, engine.evaluations) == (False, False, 0)


def damaged(folder: Path) -> None:
    (folder / "depth" / "distilled" / "controlnet" / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (shutil.rmtree, "are not all in"),
        (lambda folder: shutil.rmtree(folder / "base" / "vae"), "are not all in"),
        (lambda folder: (folder / "depth" / "distilled" / "cdd.json").unlink(), "are not all in"),
        (lambda folder: (folder / "depth" / "distilled" / "cdd.json").write_text("{}"), "damaged or of another"),
        (damaged, "damaged or of another"),
    ],
)
def test_missing_weights_are_a_sentence_with_the_remedy(
    harm: Callable[[Path], object], words: str, family: Path, depth: Path, tmp_path: Path
):
    shutil.copytree(family, tmp_path / "pocket")
    harm(tmp_path / "pocket")
    engine = Engine(Settings(checkpoints=tmp_path, device="cpu"))
    for ask in (
        engine.family,
        lambda: engine.look("depth", depth, False).picture,
        lambda: list(engine.compare(CompareRequest(depth))),
    ):
        with pytest.raises(EngineError, match=words) as refused:
            ask()
        assert "git checkout -- checkpoints" in str(refused.value)
        assert str(tmp_path) not in str(refused.value), "where the server keeps its weights is its own affair"
    assert not engine.ready


def test_what_failed_is_not_tried_again_by_every_visitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tried = []
    monkeypatch.setattr(
        app.engine_models, "load", lambda *_: tried.append(1) or (_ for _ in ()).throw(FileNotFoundError())
    )
    engine = Engine(Settings(checkpoints=tmp_path, device="cpu"))
    for wait, expected in ((60.0, 1), (60.0, 1), (0.0, 2), (0.0, 3)):
        monkeypatch.setattr(app.engine_models, "AGAIN_SECONDS", wait)
        with pytest.raises(EngineError, match="are not all in"):
            engine.family()
        assert len(tried) == expected


def test_one_thread_computes_for_everybody(settings: Settings, depth: Path):
    """From the loading on, whoever asks: a second one would have OpenMP's threads sleep between operations."""
    computing = set()
    with register_module_forward_pre_hook(lambda *_: computing.add(threading.current_thread().name)):
        fresh = Engine(replace(settings, device="cpu"))
        visitors = [threading.Thread(target=run, args=(fresh, CompareRequest(depth, "", 0, 1, 1))) for _ in range(2)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        fresh.look("depth", depth)
    assert computing == {"hand_0"}


def test_a_task_without_models_is_told(engine: Engine, depth: Path):
    """The tiny family has an undistilled editor, but no distilled one to set beside it."""
    assert engine.family().tasks == ("depth",)
    with pytest.raises(EngineError, match=r"has no models for 'edit' yet"):
        next(iter(engine.compare(CompareRequest(depth, "make it night", task="edit"))))


def test_edits_are_drawn_and_empty_wishes_refused(family: Path, device: torch.device, tmp_path: Path):
    shutil.copytree(family, tmp_path / "pocket")
    editor = tmp_path / "pocket" / "edit"
    shutil.copytree(editor / "undistilled", editor / "distilled")
    card = json.loads((editor / "distilled" / "cdd.json").read_text())
    card |= {"variant": "distilled", "guidance": 1.0, "image_guidance": 1.0, "words": ["night", "snowy"]}
    (editor / "distilled" / "cdd.json").write_text(json.dumps(card))
    both = Engine(Settings(checkpoints=tmp_path, device=device.type))
    assert both.family().tasks == ("depth", "edit")
    photo = tmp_path / "photo.png"
    photo.write_bytes(encoded(PHOTO))
    start, steps, _ = run(both, CompareRequest(photo, "make it NIGHT!", 3, 2, 3, task="edit"))
    shrunk = pixels(PHOTO.resize(start.condition.size, Image.Resampling.BICUBIC))
    assert abs(pixels(start.condition) - shrunk).max() <= 1
    assert [step.nfe for step in steps] == [1, 2, 3, 6, 3, 6, 9], "the undistilled one is guided by text and picture"
    with pytest.raises(EngineError, match="use one of these words: night, snowy"):
        next(iter(both.compare(CompareRequest(photo, "make it nice", task="edit"))))
    with pytest.raises(EngineError, match=r"no further than .*; say what to change in fewer words"):
        next(iter(both.compare(CompareRequest(photo, "please be so very kind and make it night", task="edit"))))


def test_an_enlarged_picture_is_compared_with_the_whole_one(family: Path, device: torch.device, tmp_path: Path):
    """Also where it is no square; and the invisible mark takes no part in it."""
    shutil.copytree(family, tmp_path / "pocket")
    shutil.copytree(family / "upscale" / "undistilled", tmp_path / "pocket" / "upscale" / "distilled")
    engine = Engine(Settings(checkpoints=tmp_path, device=device.type, watermark=False))
    portrait = PHOTO.resize((48, 64), Image.Resampling.BICUBIC)
    (tmp_path / "photo.png").write_bytes(encoded(portrait))
    asked = CompareRequest(tmp_path / "photo.png", "", 0, 1, 1, task="upscale", degradation=0.5)
    start, steps, report = run(engine, replace(asked, prompt="a lake", guidance=3.0))
    assert np.array_equal(pixels(start.truth), pixels(portrait)), "it is shown, too"
    plain = np.square(pixels(start.condition) / 255 - pixels(portrait) / 255).mean()
    assert dict(start.quality)["PSNR"] == pytest.approx(-10 * np.log10(plain), abs=1e-3), "plain enlargement"
    assert (start.uploaded, start.given.size) == ((48, 64), (12, 16))
    seen = engine.look("upscale", tmp_path / "photo.png", degradation=0.5)
    assert (seen.uploaded, seen.given) == (start.uploaded, start.given.size)
    assert [step.nfe for step in steps] == [1, 1, 1], "words mean nothing to it, so they cost nothing"
    for lane in report.lanes:
        error = np.square(pixels(lane.images[0]) / 255 - pixels(portrait) / 255).mean()
        assert dict(lane.quality)["PSNR"] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    (tmp_path / "tiny.png").write_bytes(encoded(portrait.resize((24, 32))))
    small = run(engine, replace(asked, image=tmp_path / "tiny.png"))[0]
    assert (small.truth, small.quality) == (None, ()), "it was enlarged first: nobody knows how it should be"
    engine._settings = replace(engine._settings, watermark=True)
    assert [lane.quality for lane in run(engine, asked)[2].lanes] == [lane.quality for lane in report.lanes]


def test_an_edit_is_compared_with_what_it_should_become(family: Path, device: torch.device, tmp_path: Path):
    """Where that is known; and it changes nothing about what is drawn."""
    shutil.copytree(family, tmp_path / "pocket")
    shutil.copytree(family / "edit" / "undistilled", tmp_path / "pocket" / "edit" / "distilled")
    engine = Engine(Settings(checkpoints=tmp_path, device=device.type, watermark=False))
    for name, picture in (("photo.png", PHOTO), ("truth.png", PHOTO.rotate(90))):
        (tmp_path / name).write_bytes(encoded(picture))
    asked = CompareRequest(tmp_path / "photo.png", "make it night", 0, 1, 1, task="edit", lanes=["distilled"])
    _, (step,), plain = run(engine, asked)
    assert plain.lanes[0].quality == ()
    start, (again,), report = run(engine, replace(asked, truth=tmp_path / "truth.png"))
    assert again.png == step.png
    side = engine.family().size
    truth = PHOTO.rotate(90).resize((side, side), Image.Resampling.BICUBIC)
    for picture, told in ((report.lanes[0].images[0], report.lanes[0].quality), (start.condition, start.quality)):
        error = np.square(pixels(picture) / 255 - pixels(truth) / 255).mean()
        assert dict(told)["PSNR"] == pytest.approx(-10 * np.log10(error), abs=0.1)
    assert start.truth.size == (side, side)


@pytest.mark.parametrize("value", ["much", float("nan"), None])
def test_a_degradation_is_a_number(value: object, engine: Engine, depth: Path):
    with pytest.raises(EngineError, match=r"^The degradation must be a number, not '.*'\.$"):
        next(iter(engine.compare(CompareRequest(depth, degradation=value))))


def test_weights_that_come_later_are_found(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine = Engine(Settings(checkpoints=tmp_path, device="cpu"))
    with pytest.raises(EngineError):
        engine.family()
    shutil.copytree(family, tmp_path / "pocket")
    monkeypatch.setattr(app.engine_models, "AGAIN_SECONDS", 0.0)
    assert engine.family().students["depth"] == "distilled"


def test_a_device_that_is_not_here_is_told(family: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="PyTorch finds no device 'cuda' here; --device auto takes what there is"):
        Engine(Settings(checkpoints=family.parent, family=family.name, device="cuda")).family()


def test_hidden_lanes_are_not_drawn(engine: Engine, depth: Path):
    start, steps, report = run(engine, CompareRequest(depth, "", 0, 2, 3, lanes=["full"]))
    assert [lane.key for lane in start.lanes] == ["full"]
    assert len(steps) == 3
    assert report.speed_up is None
    with pytest.raises(EngineError, match="at least one lane"):
        next(iter(engine.compare(CompareRequest(depth, lanes=[]))))


def test_each_picture_is_what_its_own_seed_draws_alone(engine: Engine, depth: Path):
    _, steps, report = run(engine, CompareRequest(depth, "a lake", 5, 2, 2, lanes=["distilled"], pictures=3))
    assert [(step.picture, step.seed, step.i) for step in steps] == [(k, 5 + k, i) for k in range(3) for i in (0, 1)]
    assert len(report.lanes[0].images) == 3
    assert report.lanes[0].nfe == 6
    alone = run(engine, CompareRequest(depth, "a lake", 7, 2, 2, lanes=["distilled"]))[1]
    assert [s.image.tobytes() for s in steps[4:]] == [s.image.tobytes() for s in alone]


def test_rivals_and_guidance_change_the_undistilled_lanes_alone(engine: Engine, depth: Path):
    plain = CompareRequest(depth, "a lake", 3, 4, 4, lanes=["distilled", "same"])
    ends = {}
    for name, changes in {
        "plain": {},
        "rival": {"rival": "dpmsolver++"},
        "guided": {"guidance": "3"},
        "led away": {"guidance": 3, "negative": "fog"},
    }.items():
        _, steps, _ = run(engine, replace(plain, **changes))
        ends[name] = (steps[3].image.tobytes(), steps[7].image.tobytes(), steps[7].nfe)
    assert len({end[0] for end in ends.values()}) == 1
    assert len({end[1] for end in ends.values()}) == 4
    assert [end[2] for end in ends.values()] == [4, 4, 8, 8]
    with pytest.raises(EngineError, match="needs|guidance"):
        next(iter(engine.compare(CompareRequest(depth, negative="fog"))))


def test_control_can_be_weakened(engine: Engine, depth: Path):
    ends = [run(engine, CompareRequest(depth, "", 3, 1, 1, control=c))[1][0].image.tobytes() for c in (1, 0.5, 0)]
    assert len(set(ends)) == 3
    other = run(engine, CompareRequest(depth, "", 3, 1, 1, invert=True, control=0))[1][0].image.tobytes()
    assert other == ends[2], "at 0 the map is not heard at all"


def test_a_fast_preview_changes_no_result(engine: Engine, depth: Path):
    full, fast = (run(engine, CompareRequest(depth, "", 3, 3, 1, preview=p))[1] for p in ("full", "fast"))
    assert full[0].image.tobytes() != fast[0].image.tobytes()
    assert full[0].image.size == fast[0].image.size
    assert full[2].image.tobytes() == fast[2].image.tobytes()


def test_a_grid_holds_what_single_runs_draw(engine: Engine, depth: Path):
    base = CompareRequest(depth, "a lake", 3)
    *_, last = engine.grid(GridRequest(base, "models", (1, 2)))
    assert (last.done, last.total) == (8, 8)
    *_, seeds = engine.grid(GridRequest(base, "seeds", (2, 20)))
    assert seeds.total == 4, "the distilled model has no 20 steps"
    assert "none" not in str(last.notes), "its settings come back as they were asked for"
    *_, own = engine.grid(GridRequest(replace(base, pictures=3, lanes=("distilled", "full")), "seeds", (1,)))
    for key, value in (("pictures", 3), ("lanes", ["distilled", "full"])):
        assert json.loads(own.notes["parameters"])["settings"][key] == value, "what the page had chosen"
    assert seeds.sheet.width < last.sheet.width, "nor a column for them"
    own = run(engine, CompareRequest(depth, "a lake", 4, 2, 1, lanes=["distilled"]))[1][-1].image
    sheet, side = np.asarray(seeds.sheet), own.width
    found = [
        (y, x)
        for y in range(sheet.shape[0] - side + 1)
        for x in range(sheet.shape[1] - side + 1)
        if (sheet[y, x] == np.asarray(own)[0, 0]).all()
        and np.array_equal(sheet[y : y + side, x : x + side], np.asarray(own))
    ]
    assert len(found) == 1
    assert not engine.busy
    with pytest.raises(EngineError, match="acts through guidance"):
        next(iter(engine.grid(GridRequest(replace(base, negative="fog", lanes=("distilled",)), "models"))))
    with pytest.raises(EngineError, match="kind of row"):
        next(iter(engine.grid(GridRequest(base, "columns"))))


def test_a_prompt_that_equals_the_negative_one_costs_nothing(engine: Engine, depth: Path):
    """There is no way from a prompt to itself."""
    asked = CompareRequest(depth, "a lake", 3, 1, 2, lanes=["full"])
    _, plain, _ = run(engine, replace(asked, guidance=1.0))
    _, steps, _ = run(engine, replace(asked, negative="a lake", guidance=3.0))
    assert [step.nfe for step in steps] == [1, 2]
    assert pixels(steps[-1].image).tobytes() == pixels(plain[-1].image).tobytes()


def test_what_is_withheld_is_not_measured():
    lane = Lane("full", "undistilled", 1)
    frames = [StepFrame(lane, 0, 1, 9, 1, 0.1, None, k, k, b"", told) for k, told in enumerate([(("PSNR", 20.0),), ()])]
    assert means(frames) == means(frames[::-1]) == (("PSNR", 20.0),)
    assert means(frames[1:]) == ()


def test_a_run_that_can_not_be_done_in_time_is_ended_soon(monkeypatch: pytest.MonkeyPatch):
    """When a dozen steps have told how long the others will take; and one slow step says nothing."""
    clock = [0.0]
    monkeypatch.setattr("app.engine_pace.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def walked(seconds: list[float]) -> tuple[int, str]:
        pace = Pace(60, 100)
        for done, each in enumerate(seconds):
            try:
                pace.check()
            except EngineError as error:
                return done, str(error)
            clock[0] += each
            pace.count()
        return len(seconds), ""

    done, words = walked([2.0] * 20)
    assert done == 12
    assert words.startswith("This run would take about 200 seconds, and one may take 60 here")
    assert walked([20.0] + [0.2] * 99) == (100, "")
    assert walked([0.7] * 50) == (50, ""), "it may just come to its end"


def test_a_run_that_takes_too_long_is_ended(settings: Settings, depth: Path, monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr("app.engine_pace.time", SimpleNamespace(monotonic=lambda: clock[0]))
    slow = Engine(Settings(**{**vars(settings), "max_seconds": 1}))
    events = slow.compare(CompareRequest(depth, "", 0, 1, 50))
    next(events), next(events)
    clock[0] += 1.1
    with pytest.raises(EngineError, match="longer than the 1 seconds"):
        list(events)
    assert not slow.busy


def test_a_saved_picture_gives_its_settings_back(engine: Engine, depth: Path, tmp_path: Path):
    _, steps, _ = run(engine, CompareRequest(depth, "a lake", 3, 2, 1))
    (tmp_path / "saved.png").write_bytes(steps[1].png)
    assert engine.remembered(tmp_path / "saved.png").items() >= {"seed": 3, "prompt": "a lake", "steps": 2}.items()
    asked = CompareRequest(depth, "a lake", 3, 1, 2, lanes=["full", "distilled"], rival="unipc", pictures=2, guidance=2)
    start, *_, last, report = engine.compare(asked)
    (tmp_path / "saved.png").write_bytes(last.png)
    told = engine.remembered(tmp_path / "saved.png")
    assert (told["seed"], told["settings"]) == (4, settings_of(start.request)), "the second picture, and the whole run"
    assert json.loads(report.notes["parameters"])["settings"] == told["settings"]
    *_, sheet = engine.grid(GridRequest(asked, "models", (1,)))
    assert json.loads(sheet.notes["parameters"])["settings"]["pictures"] == 2, "as the page had it"
    with pytest.raises(EngineError, match="doesn't say how it was made"):
        engine.remembered(depth)


def test_files_say_which_guidance_was_used(engine: Engine, depth: Path):
    """Also none at all, which is not the same as the model's own."""
    for guidance, told in ((0, 0.0), (2.5, 2.5), (None, 1.0)):
        _, steps, _ = run(engine, CompareRequest(depth, "a lake", 3, 1, 1, lanes=["full"], guidance=guidance))
        assert read_parameters(Image.open(BytesIO(steps[0].png)))["guidance"] == told


def test_an_upload_is_prepared_once_for_all_models_that_see_it_alike(
    engine: Engine, depth: Path, monkeypatch: pytest.MonkeyPatch
):
    prepared, original = [], app.engine_requests.prepare

    def prepare(*given: object) -> torch.Tensor:
        prepared.append(given[0])
        return original(*given)

    monkeypatch.setattr(app.engine_requests, "prepare", prepare)
    run(engine, CompareRequest(depth, "a lake", 3, 1, 2, pictures=3))
    assert len(prepared) == 1
    monkeypatch.setattr(app.engine_requests, "sight", id)
    run(engine, CompareRequest(depth, "a lake", 3, 1, 2, pictures=3))
    assert len(prepared) == 1 + 2


def test_pictures_have_a_size_limit_and_a_camera_stays_below_it(engine: Engine, settings: Settings, tmp_path: Path):
    (tmp_path / "twelve.jpg").write_bytes(encoded(Image.fromarray(RAMP8).resize((4000, 3000)), "JPEG"))
    assert engine.look("depth", tmp_path / "twelve.jpg").picture.size == (engine.family().size,) * 2
    (tmp_path / "large.png").write_bytes(encoded(Image.new("1", (4097, 4096))))
    with pytest.raises(EngineError, match="more than 16 megapixels"):
        engine.look("depth", tmp_path / "large.png")
    strict = Engine(Settings(**{**vars(settings), "max_megapixels": 1}))
    with pytest.raises(EngineError, match="more than 4 megapixels"):  # JPEGs are decoded at a fraction of their size
        strict.remembered(tmp_path / "twelve.jpg")


@pytest.mark.parametrize("task", ["edit", "upscale"])
def test_a_portrait_of_twelve_megapixels_on_its_side_is_changed_upright(
    family: Path, settings: Settings, tmp_path: Path, task: str
):
    """As a telephone keeps it: the sensor's rows, and a note how to turn them."""
    shutil.copytree(family, tmp_path / "pocket")
    shutil.copytree(family / task / "undistilled", tmp_path / "pocket" / task / "distilled")
    engine = Engine(replace(settings, checkpoints=tmp_path, family="pocket"))
    upright = Image.fromarray(np.repeat(np.uint8([[[250, 240, 220]], [[20, 40, 10]]]), 4, 1)).resize((3000, 4000), 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a right angle, clockwise
    photo = tmp_path / "portrait.jpg"
    photo.write_bytes(encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif))
    prepared = pixels(engine.look(task, photo).picture)
    top, bottom = np.split(prepared, [len(prepared) // 2])
    assert top[: len(top) - 4].min() > 180
    assert bottom[4:].max() < 80
    _, (step,), _ = run(engine, CompareRequest(photo, "make it sunset", 3, 1, 1, task=task, lanes=["distilled"]))
    width, height = Image.open(BytesIO(step.png)).size
    if task == "edit":
        assert width == height == engine.family().size
    else:
        assert width / height == pytest.approx(3 / 4, rel=0.05), "an enlarged picture keeps its shape"


def test_runs_and_grids_leave_a_line_in_the_log(engine: Engine, depth: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "app")
    run(engine, CompareRequest(depth, "a lake", 3, 1, 2, lanes=["full"]))
    list(engine.grid(GridRequest(CompareRequest(depth, "a lake", 3), "seeds", (1, 2))))
    stopped = engine.grid(GridRequest(CompareRequest(depth, "a lake", 3), "models", (1, 2)))
    next(stopped)
    stopped.close()
    told = [re.sub(r"seconds=\d+\.\d\d", "", record.getMessage()) for record in caplog.records]
    assert told == [
        "run task=depth lanes=full pictures=1 steps=1/2  ended=done",
        "run task=depth grid=seeds steps=1+2  ended=done",
        "run task=depth grid=models steps=1+2  ended=stopped",
    ]


def test_a_grid_with_nothing_to_draw_says_so(engine: Engine, depth: Path):
    with pytest.raises(EngineError, match="draws in 8 steps at most"):
        list(engine.grid(GridRequest(CompareRequest(depth, "a lake", 3), "seeds", (20, 50))))
