"""The demo's engine on public models in miniature: which family it takes, and what stands in the distilled lane."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partialmethod
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import PHOTO, RAMP, encoded
from PIL import Image
from sd_shaped import family, write_repositories
from test_conditions import tiny

import app.engine
from app.engine import Engine
from app.engine_models import chosen_family
from app.schema import RIVALS, SAMPLERS, CompareRequest, EngineError, GridRequest, StepFrame
from app.settings import Settings
from app.ui_stage import name
from cdd_core.__main__ import main
from cdd_core.families import fetch
from cdd_core.loading import load
from cdd_core.png import read_parameters
from cdd_core.repositories import Folder
from cdd_core.safety import load_safety_checker

pytestmark = pytest.mark.usefixtures("quiet_diffusers")


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``checkpoints/`` with a family of public models and a depth estimator."""
    root = tmp_path_factory.mktemp("public")
    write_repositories(root / "hub", "v_prediction")  # as SD 2.1; test_own tells the whole story of SD 1.5
    fetch(family("v_prediction"), root / "checkpoints" / "sd15", Folder(root / "hub"))
    tiny(root / "checkpoints" / "sd15" / "estimator")
    return root / "checkpoints"


@pytest.fixture(scope="module")
def engine(public: Path) -> Engine:
    return Engine(Settings(checkpoints=public, family="sd15", device="cpu"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "photo.png").write_bytes(encoded(PHOTO))
    return tmp_path / "photo.png"


def test_the_rival_stands_in_the_distilled_lane_by_its_own_name(engine: Engine, tmp_path: Path):
    (tmp_path / "map.png").write_bytes(encoded(Image.fromarray(RAMP)))
    start, *steps, report = engine.compare(CompareRequest(tmp_path / "map.png", "a lake", 3, 2, 3))
    assert [name(lane) for lane in start.lanes] == ["LCM-LoRA, 2 steps", "Undistilled, 2 steps", "Undistilled, 3 steps"]
    assert [step.nfe for step in steps] == [1, 2, 2, 4, 2, 4, 6], "the undistilled ones are guided by their cards"
    assert report.speed_up is not None
    assert read_parameters(Image.open(BytesIO(steps[0].png)))["variant"] == "lcm"
    told = engine.family()
    assert told.students == {"depth": "lcm", "edit": "lcm"}
    assert (told.tasks, told.size, told.estimator) == (("depth", "edit"), 64, True)


def test_beside_a_student_of_ones_own_the_public_rival_can_be_chosen(engine: Engine, public: Path, tmp_path: Path):
    shutil.copytree(public, tmp_path / "checkpoints")
    home = tmp_path / "checkpoints" / "sd15" / "depth"
    shutil.copytree(home / "undistilled", home / "distilled")
    card = home / "distilled" / "cdd.json"
    facts = json.loads(card.read_text()) | {"variant": "distilled", "guidance": 1.0}
    card.write_text(json.dumps(facts))
    (tmp_path / "map.png").write_bytes(encoded(Image.fromarray(RAMP)))
    own = Engine(Settings(checkpoints=home.parents[1], family="sd15", device="cpu"))
    assert own.family().rivals == {"depth": RIVALS, "edit": SAMPLERS}, "the editor has it in its distilled lane"
    assert engine.family().rivals == {"depth": SAMPLERS, "edit": SAMPLERS}
    asked = CompareRequest(tmp_path / "map.png", "a lake", 3, 2, 2, rival="lcm")
    start, *steps, _ = own.compare(asked)
    assert [name(lane) for lane in start.lanes] == ["Distilled, 2 steps", "LCM-LoRA, 2 steps", "Undistilled, 2 steps"]
    beside = [step.image for step in steps if step.lane.key == "same"]
    alone = [step.image for step in engine.compare(replace(asked, rival="ddim")) if isinstance(step, StepFrame)][:2]
    assert [np.array_equal(*pair) for pair in zip(beside, alone, strict=True)] == [True, True]
    *_, grid = own.grid(GridRequest(asked, columns=(1,)))
    assert (grid.done, grid.total) == (5, 5), "two students, and the undistilled model with three samplers"
    unguided = replace(asked, lanes=("distilled", "same"), negative="fog", guidance=1.0)
    assert list(own.compare(unguided)), "no lane is guided, and none has to be"
    with pytest.raises(EngineError, match="A negative prompt acts through guidance"):
        next(iter(own.compare(replace(unguided, rival="ddim"))))
    with pytest.raises(EngineError, match="The rival is one of ddim, dpmsolver\\+\\+, unipc, not 'lcm'"):
        next(iter(engine.compare(asked)))


def test_pictures_that_the_safety_checker_objects_to_are_withheld(public: Path, tmp_path: Path):
    (tmp_path / "map.png").write_bytes(encoded(Image.fromarray(RAMP)))
    asked = CompareRequest(tmp_path / "map.png", "a lake", 1, 1, 1, lanes=("distilled",))

    def drawn(**switches: bool) -> np.ndarray:
        engine = Engine(Settings(checkpoints=public, family="sd15", device="cpu", watermark=False, **switches))
        engine.family()  # loads
        if engine._shelf.safety is not None and objecting:
            engine._shelf.safety.network.concept_embeds_weights.data.fill_(-1.0)
        return np.asarray(list(engine.compare(asked))[1].image)

    objecting = False
    free = drawn()
    objecting = True
    grey = drawn()
    assert np.array_equal(free, drawn(safety_checker=False)), "switched off, it is not asked"
    assert (grey == 128).mean() > 0.7, "all but the words"
    assert not np.array_equal(grey, free)


def test_without_its_safety_checker_a_family_that_has_one_stays_away(public: Path, photo: Path, tmp_path: Path):
    shutil.copytree(public, tmp_path / "checkpoints")
    home = tmp_path / "checkpoints" / "sd15"
    shutil.rmtree(home / "safety")
    row = "{name: sd15, base: a/b, prediction_type: epsilon, safety: a/b}"
    (home.parent / "cards.yaml").write_text(f"families: [{row}]\nmodels: []\n")
    settings = Settings(checkpoints=home.parent, family="sd15", device="cpu")
    with pytest.raises(EngineError, match="safety checker .* not here") as refused:
        Engine(settings).look("depth", photo)
    assert "python -m cdd_core fetch --family sd15" in str(refused.value)
    assert "--no-safety-checker" in str(refused.value)
    assert Engine(replace(settings, safety_checker=False)).look("depth", photo).picture.size == (64, 64)


def test_depth_is_estimated_when_the_device_is_free(engine: Engine, photo: Path, monkeypatch: pytest.MonkeyPatch):
    """Never beside a run; a map that needs no estimate is shown at once."""
    monkeypatch.setattr(app.engine, "LOOK_SECONDS", 0.05)
    run = engine.compare(CompareRequest(photo, "a lake", 3, 2, 2))
    next(run), next(run)
    assert engine.look("depth", photo)
    with pytest.raises(EngineError, match="still busy"):
        engine.look("depth", photo, estimate=True)
    run.close()
    assert engine.look("depth", photo, estimate=True)
    assert not engine.busy


def test_photos_become_depth_only_if_asked(engine: Engine, photo: Path):
    given, estimated = (np.asarray(engine.look("depth", photo, estimate=asked).picture) for asked in (False, True))
    assert given.shape == estimated.shape
    assert abs(given.astype(int) - estimated).mean() > 5
    start = next(iter(engine.compare(CompareRequest(photo, estimate=True))))
    assert np.array_equal(np.asarray(start.condition), estimated)
    start = next(iter(engine.compare(CompareRequest(photo, "x", task="edit", estimate=True))))
    assert not start.request.estimate, "an editor takes the photo itself"


def test_sizes_a_family_offers(engine: Engine, photo: Path, tmp_path: Path):
    (tmp_path / "map.png").write_bytes(encoded(Image.fromarray(RAMP)))
    asked = CompareRequest(tmp_path / "map.png", "a lake", 3, 1, 1, size=96)
    start, *steps, _ = engine.compare(asked)
    assert engine.family().sizes == (64, 96)
    assert {event.image.size for event in steps} == {(96, 96)} == {start.condition.size}
    assert engine.remembered(_written(steps[0].png, tmp_path))["size"] == 96
    edited = next(iter(engine.compare(CompareRequest(photo, "x", task="edit", size="96"))))
    assert edited.condition.size == (96, 96)
    with pytest.raises(EngineError, match="The size is one of 64, 96, not '80'"):
        next(iter(engine.compare(CompareRequest(tmp_path / "map.png", size=80))))


def _written(content: bytes, folder: Path) -> Path:
    (folder / "result.png").write_bytes(content)
    return folder / "result.png"


@pytest.mark.parametrize("switch", ["offload", "compile"])
def test_switches_for_the_device_change_no_picture(
    engine: Engine, public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
):
    # What torch makes of a block is for test_speed; here the switch has to reach the blocks that draw.
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    torch._dynamo.utils.counters.clear()
    (tmp_path / "map.png").write_bytes(encoded(Image.fromarray(RAMP)))
    asked = CompareRequest(tmp_path / "map.png", "a lake", 3, 2, 2)
    other = Engine(Settings(checkpoints=public, family="sd15", device="cpu", **{switch: True}))
    expected, drawn = ([event.image for event in list(e.compare(asked))[1:-1]] for e in (engine, other))
    for one, two in zip(expected, drawn, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(two)).max() <= 1
    assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == (switch == "compile")


def test_networks_that_several_models_share_are_held_once(engine: Engine, public: Path):
    """A rival stands on its teacher's ControlNet or U-Net, and draws what it draws when loaded alone."""
    engine.family()
    shelf = engine._shelf
    lcm, teacher = (shelf.model("depth", variant).denoiser for variant in ("lcm", "undistilled"))
    assert lcm.adapter.net is teacher.adapter.net
    assert lcm.unet is not teacher.unet, "it has LCM-LoRA in it"
    assert shelf.model("edit", "lcm").denoiser.unet is not shelf.model("edit", "undistilled").denoiser.unet
    for task in ("depth", "edit"):
        alone, together = load(public / "sd15", task, "lcm"), shelf.model(task, "lcm")
        for one, other in zip(alone.denoiser.parameters(), together.denoiser.parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_full_gpu_is_told(public: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(app.engine_models, "load", full)
    with pytest.raises(EngineError, match="too little memory for the family 'sd15': start the demo with --offload"):
        Engine(Settings(checkpoints=public, family="sd15", device="cpu")).family()


def test_tasks_that_a_family_lacks_are_told(engine: Engine, photo: Path):
    with pytest.raises(EngineError, match="has no models for 'canny' yet"):
        next(iter(engine.compare(CompareRequest(photo, task="canny"))))


def test_outlines_are_a_task_where_there_are_models(public: Path, photo: Path, tmp_path: Path):
    shutil.copytree(public, tmp_path / "checkpoints")
    home = tmp_path / "checkpoints" / "sd15"
    shutil.copytree(home / "depth", home / "canny")
    for variant in ("undistilled", "lcm"):
        card = home / "canny" / variant / "cdd.json"
        card.write_text(card.read_text().replace('"task": "depth"', '"task": "canny"'))
    engine = Engine(Settings(checkpoints=home.parent, family="sd15", device="cpu"))
    asked = CompareRequest(photo, task="canny", distilled_steps=1, undistilled_steps=1)
    start = next(iter(engine.compare(asked)))
    assert set(np.unique(np.asarray(start.condition))) == {0, 255}
    Image.fromarray(255 - np.asarray(start.condition)).save(tmp_path / "drawing.png")
    again = next(iter(engine.compare(replace(asked, image=tmp_path / "drawing.png", lines=True))))
    assert np.array_equal(again.condition, start.condition), "a drawing of the same lines, dark on white"
    assert again.request.lines
    assert not next(iter(engine.compare(replace(asked, task="depth", lines=True)))).request.lines


def test_the_family_is_chosen_by_what_is_here(public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = Settings(checkpoints=public)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_family(settings) == ("pocket", "because there is no GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_family(settings) == ("sd15", "because there is a GPU")
    assert chosen_family(Settings(checkpoints=public, device="cpu")) == ("pocket", "because it is to run on the CPU")
    shutil.copytree(public / "sd15", tmp_path / "half" / "sd15")
    (tmp_path / "half" / "sd15" / "depth" / "lcm" / "cdd.json").unlink()
    assert "not all of it" in chosen_family(Settings(checkpoints=tmp_path / "half"))[1]
    named, why = chosen_family(Settings(checkpoints=tmp_path))
    assert named == "pocket"
    assert "fetch --family sd15" in why
    assert chosen_family(Settings(checkpoints=public, family="mine")) == ("mine", "")


def test_a_family_that_was_never_fetched_is_a_sentence_with_the_command(tmp_path: Path, photo: Path):
    (tmp_path / "cards.yaml").write_text("families: [{name: sd15, base: a/b, prediction_type: epsilon}]\nmodels: []\n")
    engine = Engine(Settings(checkpoints=tmp_path, family="sd15", device="cpu"))
    with pytest.raises(EngineError, match="python -m cdd_core fetch --family sd15"):
        engine.look("depth", photo)


def test_the_command_line_asks_the_safety_checker_too(public: Path, tmp_path: Path):
    shutil.copytree(public / "sd15", tmp_path / "sd15")
    network = load_safety_checker(tmp_path / "sd15" / "safety").network
    network.concept_embeds_weights.data.fill_(-1.0)
    network.save_pretrained(tmp_path / "sd15" / "safety" / "safety_checker")
    (tmp_path / "map.png").write_bytes(encoded(Image.fromarray(RAMP)))
    asked = ["sample", "--image", str(tmp_path / "map.png"), "--model", str(tmp_path / "sd15"), "--device", "cpu"]
    asked += ["--variant", "lcm", "--steps", "1", "--no-watermark"]
    for more, withheld in (("--out", "a"), True), (("--out", "b", "--no-safety-checker"), False):
        assert main([*asked, more[0], str(tmp_path / more[1]), *more[2:]]) == 0
        grey = (np.asarray(Image.open(tmp_path / more[1] / "final.png")) == 128).mean()
        assert (grey > 0.7) == withheld
