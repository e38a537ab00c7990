"""The demo without its models: settings, catalogue, what the page shows, and how it behaves on a canned engine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from pydantic import TypeAdapter
from served import served

from app.catalog import Catalog, Example, read_catalog
from app.schema import (
    RIVALS,
    SAMPLERS,
    CompareRequest,
    EngineError,
    Event,
    Family,
    GridCell,
    GridRequest,
    Lane,
    LaneReport,
    RunReport,
    RunStart,
    Seen,
    StepFrame,
)
from app.settings import Settings, read_settings
from app.ui_about import about
from app.ui_facts import StepFacts, run_type
from app.ui_handlers import Handlers
from app.ui_stage import Stage, made_small, render, render_status
from cdd_core.png import notes, png_bytes

ROOT = Path(__file__).parents[1]
LANES = (Lane("distilled", "distilled", 2), Lane("same", "undistilled", 2), Lane("full", "undistilled", 14))
STEPS = sum(lane.steps for lane in LANES)
SEED = 11
TILE = r'<li data-t="\d+"[^>]*><img'  # a step that is drawn


def is_bad(image: str | Path) -> bool:
    """By its own name: the folder that Gradio puts it into may have the word among random letters."""
    return "bad" in Path(image).name


class CannedEngine:
    """Grey squares instead of pictures; remembers what was asked of it, and whether its run was closed."""

    name, ready, busy, evaluations = "pocket", True, False, 7

    def __init__(self) -> None:
        self.requests: list[CompareRequest] = []
        self.closed = False

    def family(self) -> Family:
        return Family("pocket", 128, "cpu", "drawings & <paintings>")

    def understand(self, task: str, prompt: object) -> None:
        if prompt == "gibberish":
            raise EngineError("Say it in words I know.")

    def look(self, task: str, image: str | Path, invert: bool, degradation: float, *others: bool) -> Seen:
        if is_bad(image):
            raise EngineError("This picture is bad; bring a good one.")
        return Seen(Image.new("RGB", (8, 8), "white" if invert else "black"), "photo" in str(image))

    def compare(self, request: CompareRequest) -> Iterator[Event]:
        self.requests.append(request)
        request = replace(request, seed=SEED if request.seed is None else request.seed)
        seen = self.look(request.task, request.image, request.invert, request.degradation)
        times = {lane.key: tuple(999 - i for i in range(lane.steps)) for lane in LANES}
        yield RunStart(request, LANES, seen.picture, times=times)
        reports = []
        try:
            for number, lane in enumerate(LANES):
                for i in range(lane.steps):
                    picture = Image.new("RGB", (8, 8), (number, i, 0))
                    png, seconds = png_bytes(picture, {"step": i + 1}), 0.1 * (i + 1)
                    quality = (("depth error", 0.0312),) if i + 1 == lane.steps else ()
                    facts = (seconds, picture, 0, request.seed, png, quality)
                    yield StepFrame(lane, i, lane.steps, 999 - i, i + 1, *facts)
                times = tuple(999 - i for i in range(lane.steps))
                reports.append(LaneReport(lane, (picture,), lane.steps, 0.1 * lane.steps, quality, times))
        except GeneratorExit:
            self.closed = True
            raise
        told = notes({"task": request.task, "seed": request.seed})
        yield RunReport(request, tuple(reports), "pocket", told)

    def grid(self, request: GridRequest) -> Iterator[GridCell]:
        self.requests.append(request.base)
        for done in range(1, 3):
            sheet = Image.new("RGB", (8 * done, 8))
            yield GridCell(done, 2, sheet, notes({"done": done}))

    def remembered(self, image: str | Path) -> dict[str, object]:
        if is_bad(image):
            raise EngineError("This picture doesn't say how it was made.")
        return {"task": "depth", "prompt": "kept", "seed": 77, "variant": "distilled", "steps": 3}


@pytest.fixture
def engine() -> CannedEngine:
    return CannedEngine()


@pytest.fixture
def handlers(engine: CannedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handlers:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    return Handlers(engine, Catalog(), gr.HTML(), pace=0.0)


def uploaded(name: str) -> dict[str, str]:
    """What the image widget sends for a file that was uploaded."""
    path = Path(os.environ["GRADIO_TEMP_DIR"]) / "uploads" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return {"path": str(path)}


def values(**changes: object) -> dict[str, object]:
    """What the page sends when nothing was touched but the depth map."""
    sent: dict[str, object] = {
        "task": "depth",
        "image": uploaded("map.png"),
        "prompt": "a lake",
        "seed": 5,
        "randomise": False,
        "distilled_steps": 2,
        "undistilled_steps": 14,
        "invert": False,
        "degradation": 0,
        "lanes": ["distilled", "same", "full"],
        "rival": "ddim",
        "pictures": 1,
        "guidance": None,
        "image_guidance": None,
        "negative": "",
        "control": 1,
        "preview": "full",
        "estimate": False,
    }
    return sent | changes


# Settings


def test_settings_have_defaults():
    settings = read_settings([], {})
    assert settings == Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 7860)


def test_a_flag_beats_the_environment_and_that_the_default():
    environ = {"CDD_PORT": "8000", "CDD_MAX_STEPS": "20", "CDD_CHECKPOINTS": "/weights", "CDD_FAMILY": ""}
    settings = read_settings(["--port", "9000"], environ)
    assert (settings.port, settings.max_steps, settings.checkpoints) == (9000, 20, Path("/weights"))
    assert settings.family == "auto"


def test_a_space_listens_on_every_address():
    assert read_settings([], {"SPACE_ID": "someone/cdd"}).host == "0.0.0.0"
    assert read_settings([], {"SPACE_ID": "someone/cdd", "CDD_HOST": "10.0.0.1"}).host == "10.0.0.1"
    assert [read_settings([], environ).proxies for environ in ({}, {"SPACE_ID": "someone/cdd"})] == [0, 1]


@pytest.mark.parametrize(
    "flags", [["--port", "abc"], ["--port", "0"], ["--proxies", "-1"], ["--device", "abacus"], ["--unknown", "1"]]
)
def test_bad_settings_are_refused(flags: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        read_settings(flags, {})
    assert flags[0].lstrip("-") in "".join(capsys.readouterr())


def test_a_switch_is_on_or_off():
    """What is neither may not leave the safety checker out."""
    for value, on in (("1", True), ("On", True), ("no", False), ("OFF", False)):
        assert read_settings([], {"CDD_SAFETY_CHECKER": value}).safety_checker is on
    with pytest.raises(SystemExit, match="CDD_SAFETY_CHECKER is one of 1, true, yes, on, 0, false, no, off, not 'y'"):
        read_settings([], {"CDD_SAFETY_CHECKER": "y"})


# Catalogue


def test_nothing_on_offer_is_no_error(tmp_path: Path):
    assert read_catalog(Settings(checkpoints=tmp_path, examples=tmp_path / "none")) == Catalog()


def test_the_catalogue_names_models_and_examples(tmp_path: Path):
    (tmp_path / "cards.yaml").write_text(
        "models:\n- {name: a, family: pocket, task: depth, variant: distilled, folder: pocket/depth/distilled, "
        "label: Distilled (CDD)}\n"
    )
    (tmp_path / "examples.yaml").write_text(
        "- {file: a.png, title: A, prompt: p, source: s, licence: l}\n"
        "- {file: gone.png, title: B, prompt: p, source: s, licence: l}\n"
    )
    (tmp_path / "a.png").touch()
    catalog = read_catalog(Settings(checkpoints=tmp_path, examples=tmp_path))
    assert [row.folder for row in catalog.models] == [tmp_path / "pocket/depth/distilled"]
    assert catalog.label("pocket", "depth", "distilled") == "Distilled (CDD)"
    assert catalog.label("pocket", "depth", "other") == "other"
    assert catalog.label("pocket", "edit", "distilled") == "distilled"
    assert catalog.examples == (Example(tmp_path / "a.png", "A", "p", "s", "l"),), "its file is gone"


@pytest.mark.parametrize("rows", ["- {file: a.png, title: A}", "- {title: A}", "- nothing"])
def test_rows_of_another_version_are_refused(rows: str, tmp_path: Path):
    (tmp_path / "examples.yaml").write_text(rows)
    with pytest.raises(ValueError, match="row"):
        read_catalog(Settings(checkpoints=tmp_path, examples=tmp_path))


def test_the_shipped_examples_are_complete():
    catalog = read_catalog(Settings(checkpoints=ROOT / "checkpoints", examples=ROOT / "assets" / "examples"))
    assert len(catalog.examples) >= 6
    assert all(example.title and example.source and example.licence for example in catalog.examples)
    assert all(example.prompt for example in catalog.examples if example.task != "upscale")


# What the page shows


def test_the_empty_page_says_in_words_what_will_appear():
    page = render(Stage())
    assert "Your depth map, as the model sees it" in page
    assert "Distilled, few steps" in page
    assert "<img" not in page


def test_every_step_adds_one_tile(handlers: Handlers):
    shown = list(handlers.draw(**values()))
    assert len(shown) == 1 + 1 + STEPS + 1, "a first word, the start, one for each step, the report"
    tiles = [len(re.findall(TILE, str(stage))) for _, stage, _ in shown[1:]]
    assert tiles == [*range(STEPS + 1), STEPS]
    slots = [len(re.findall("cdd-slot", str(stage))) for _, stage, _ in shown[1:]]
    assert slots == [*range(STEPS, -1, -1), 0], "from the start there is a place for every step"
    last = str(shown[-1][1])
    assert "predicted clean image at step 2 of 14, t = 998" in last
    assert "7.0 times faster" in last
    assert last.count("Save PNG") == 3
    assert "2 evaluations" in last
    assert "14 evaluations" in last


def test_what_was_drawn_before_stays_until_the_first_step(handlers: Handlers):
    stages = [stage for _, stage, _ in handlers.draw_again(**values())]
    drawn = [bool(re.search(TILE, str(stage))) for stage in stages]
    assert drawn == [False, False, *[True] * (STEPS + 1)]
    assert stages[1] == gr.skip()


def test_fast_steps_appear_together(engine: CannedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A browser can't show fifty pages a second; each step can still be stopped at, and none is missing in the end."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    shown = list(Handlers(engine, Catalog(), gr.HTML(), pace=60.0).draw(**values()))
    assert len(shown) == 1 + 1 + STEPS + 1
    drawn = [str(stage) for _, stage, _ in shown if "cdd-cards" in str(stage)]
    assert len(drawn) < 1 + STEPS
    assert len(re.findall(TILE, drawn[-1])) == STEPS


def test_the_first_picture_is_the_depth_map_as_the_model_sees_it(handlers: Handlers):
    start = list(handlers.draw(**values()))[1]
    assert str(start[1]).index("depth map as the model sees it, near is bright") < str(start[1]).index("cdd-distilled")


def test_words_and_bar_tell_how_far_it_is(handlers: Handlers):
    statuses = [str(status) for status, _, _ in handlers.draw(**values())]
    assert "Distilled, 2 steps: step 1 of 2" in statuses[2]
    assert f'max="{STEPS}" value="1"' in statuses[2]
    assert "Done: 18 steps" in statuses[-1]
    assert f"seed {5}" in statuses[-1]


def test_the_seed_that_was_used_is_written_back(handlers: Handlers, engine: CannedEngine):
    shown = list(handlers.draw(**values(randomise=True)))
    assert engine.requests[0].seed is None, "the choice is the engine's"
    assert shown[1][2] == SEED


def test_pictures_are_served_as_png_with_their_parameters(handlers: Handlers):
    last = str(list(handlers.draw(**values()))[-1][1])
    paths = [Path(path) for path in re.findall(TILE + r' src="gradio_api/file=([^"]+)"', last)]
    assert len(set(paths)) == STEPS
    with Image.open(paths[1]) as picture:
        assert (picture.format, picture.info["parameters"]) == ("PNG", '{"step": 2}')
        assert "trainedAlgorithmicMedia" in str(picture.info)
    assert paths[1].name == "distilled-2-steps-seed-5-step-02.png"
    folder = Path(handlers.files.owner.GRADIO_CACHE).resolve()
    assert all(path.is_relative_to(folder) for path in paths), "or nobody would delete them"


def test_a_run_that_was_stopped_before_it_was_answered_ends_at_once(handlers: Handlers):
    assert handlers.stopped("", "abc") == gr.skip()
    shown = list(handlers.draw(**values(), run="abc"))
    assert len(shown) == 2
    assert "Stopped." in shown[-1][0]
    assert shown[-1][1] == gr.skip(), "nothing was drawn"
    assert len(list(handlers.draw(**values(), run="abd"))) == 1 + 1 + STEPS + 1


def test_closing_the_page_closes_the_run(handlers: Handlers, engine: CannedEngine):
    run = handlers.draw(**values())
    for _ in range(4):
        next(run)
    run.close()
    assert engine.closed


@pytest.mark.parametrize("draw", ["draw", "compare"])
def test_a_bad_picture_is_one_sentence(draw: str, handlers: Handlers):
    with pytest.raises(gr.Error, match=r"^'This picture is bad; bring a good one.'$"):
        list(getattr(handlers, draw)(**values(image=uploaded("bad.png"))))


def test_a_bad_picture_is_told_before_generate_is_pressed(handlers: Handlers):
    with pytest.warns(UserWarning, match="This picture is bad"):  # a toast, on the page
        ((status, stage),) = handlers.look("depth", uploaded("bad.png"), False, 0, False)
    assert 'role="alert"' in status
    assert "This picture is bad" in status
    assert stage == render(Stage())


def test_a_failure_of_ours_is_a_sentence_too(handlers: Handlers, engine: CannedEngine, monkeypatch: pytest.MonkeyPatch):
    def fail(request: CompareRequest) -> Iterator[Event]:
        yield RunStart(request, LANES, Image.new("RGB", (8, 8)))
        raise RuntimeError("secret details")

    monkeypatch.setattr(engine, "compare", fail)
    shown: list[object] = []
    with pytest.raises(gr.Error, match="went wrong on the server") as raised:
        shown.extend(handlers.draw(**values()))
    assert "secret" not in str(raised.value)


def test_a_chosen_map_is_shown_and_a_removed_one_forgotten(handlers: Handlers):
    ((status, stage),) = handlers.look("depth", uploaded("map.png"), True, 0, False)
    assert "Ready" in status
    assert "near is bright" in stage
    ((status, stage),) = handlers.look("depth", None, False, 0, False)
    assert "Upload a depth map, then" in status
    assert stage == render(Stage())
    ((status, stage),) = handlers.look("upscale", None, False, 0.5, False)
    assert "Your picture, plainly enlarged" in stage


def test_examples_are_named_only_where_there_are_some(handlers: Handlers):
    def told(task: str) -> str:
        ((status, _),) = handlers.look(task, None, False, 0, False)
        refusal = dict(zip(values(), handlers.check(**values(task=task, image=None)), strict=True))["image"]["message"]
        return status + refusal + handlers.switch(task)["status"]

    assert "example" not in told("depth") + told("edit")
    shipped = ROOT / "assets" / "examples" / "peaks.png"
    handlers.catalog = Catalog(examples=(Example(shipped, "A", "p", "s", "l"),))
    assert "Pick an example, or upload" in told("depth")
    assert "pick one of the examples" in told("depth")
    assert "example" not in told("edit")


def test_without_a_map_nothing_starts(handlers: Handlers, engine: CannedEngine):
    verdicts = handlers.check(**values(image=None))
    assert [verdict["is_valid"] for verdict in verdicts] == [True, False, *[True] * 16]
    with pytest.raises(gr.Error, match="Upload a depth map first"):
        list(handlers.compare(**values(image=None)))
    assert engine.requests == []


def test_an_edit_needs_an_instruction(handlers: Handlers, engine: CannedEngine):
    verdicts = dict(zip(values(), handlers.check(**values(task="edit", prompt=" ")), strict=True))
    assert [name for name, verdict in verdicts.items() if not verdict["is_valid"]] == ["prompt"]
    assert "Say what to change" in verdicts["prompt"]["message"]
    assert all(verdict["is_valid"] for verdict in handlers.check(**values(task="depth", prompt="")))
    assert all(verdict["is_valid"] for verdict in handlers.check(**values(task="edit", prompt="make it night")))
    refused = dict(zip(values(), handlers.check(**values(prompt="gibberish")), strict=True))["prompt"]
    assert refused["message"] == "Say it in words I know.", "before it waits for its turn"
    list(handlers.draw(**values(task="edit", prompt="make it night")))
    assert engine.requests[-1].task == "edit"


def test_switching_the_task_changes_what_is_asked_for(handlers: Handlers):
    edit, depth, upscale = (handlers.switch(task) for task in ("edit", "depth", "upscale"))
    assert (edit["image"]["label"], edit["image"]["value"], edit["prompt"]["label"]) == ("Picture", None, "Instruction")
    assert "say what to change" in edit["status"]
    assert edit["preset"]["choices"][-1] == "Undistilled, closer"
    assert edit["preset"]["value"] == "Standard"
    assert [edit[name]["value"] for name in ("guidance", "undistilled_steps", "negative")] == ["", 50, ""]
    assert "Your picture" in edit["stage"]
    assert depth["image"]["label"] == "Depth map"
    assert [task["invert"]["visible"] for task in (depth, edit, upscale)] == [True, False, False]
    assert [task["control"]["visible"] for task in (depth, edit, upscale)] == [True, False, False]
    assert [task["image_guidance"]["visible"] for task in (depth, edit, upscale)] == [False, True, False]
    assert [task["degradation"]["visible"] for task in (depth, edit, upscale)] == [False, False, True]
    assert [task["guidance"]["visible"] for task in (depth, edit, upscale)] == [True, True, False]
    assert not upscale["prompt"]["visible"]
    assert "webcam" not in depth["image"]["sources"], "a webcam shows no depth"


def test_pictures_and_prompts_survive_a_look_at_another_task(handlers: Handlers):
    edit = handlers.switch("edit", None, "a lake")
    assert "value" in edit["image"], "a depth map is no picture"
    upscale = handlers.switch("upscale", edit["memory"], "make it night")
    again = handlers.switch("edit", upscale["memory"], "")
    depth = handlers.switch("depth", again["memory"], "make it dawn")
    assert "value" not in upscale["image"]
    assert "value" not in again["image"]
    assert "value" in depth["image"]
    assert [task["prompt"]["value"] for task in (edit, again, depth)] == ["", "make it night", "a lake"]


def test_a_picture_comes_back_with_a_task_that_takes_its_kind(handlers: Handlers, engine: CannedEngine, tmp_path: Path):
    told = replace(engine.family(), tasks=("depth", "edit", "upscale"))
    engine.family = lambda: told
    photo, stranger = Path(handlers.files.store(b"a photo", "mine & yours.png")), tmp_path / "secret.png"
    stranger.touch()
    served = "http://here/app/gradio_api/file="
    shown, gone = f"Picture\n{served}{quote(str(photo))}", "Picture\n"
    edit = handlers.switch("edit", None, "")
    depth = handlers.switch("depth", edit["memory"], "make it night", shown)
    assert depth["image"]["value"] is None, "a photo is no depth map"
    assert handlers.switch("upscale", depth["memory"])["image"]["value"] == str(photo)
    assert handlers.restore({"task": "edit", "seed": 1}, "depth", depth["memory"])["image"]["value"] == str(photo)
    again = handlers.restore({"task": "depth", "seed": 1}, "edit", depth["memory"], "", gone)
    assert handlers.switch("edit", again["memory"])["image"]["value"] is None, "it was taken away meanwhile"
    lost = handlers.switch("depth", None, "", shown)
    assert lost["image"]["value"] is None, "the page shows a photo, whatever the memory says"
    assert "value" not in handlers.switch("upscale", None, "", shown)["image"]
    for forged in (stranger, photo.parent, photo.parents[2] / "gradio" / ".." / "secret.png"):
        other = handlers.switch("depth", edit["memory"], "", f"Picture\n{served}{forged}")
        assert handlers.switch("edit", other["memory"])["image"]["value"] is None
    photo.unlink()
    assert handlers.switch("edit", depth["memory"])["image"]["value"] is None, "it was swept away"


def test_what_comes_back_from_history_forgets_no_prompt(handlers: Handlers):
    """Of another task, that is: its settings say nothing of the prompt that stood here."""
    edit = handlers.switch("edit", None, "a lake")
    depth = handlers.restore({"task": "depth", "prompt": "dunes", "seed": 1}, "edit", edit["memory"], "make it night")
    assert depth["prompt"]["value"] == "dunes"
    assert handlers.switch("edit", depth["memory"], "dunes")["prompt"]["value"] == "make it night"


def test_a_picture_that_is_made_small_first_is_said_to_be():
    assert made_small((128, 96), (128, 96)) == ""
    assert made_small((4000, 3000), (128, 96)) == "your 4000 × 3000 pixels, first made 128 × 96"
    assert made_small((400, 300), (100, 75), True).endswith("first made 100 × 75 and damaged")
    assert made_small((2000, 400), (128, 32)).endswith("first made 128 × 32, its ends cut off")


def test_unknown_tasks_are_refused_in_a_sentence(handlers: Handlers):
    with pytest.raises(gr.Error, match="The task is one of depth, edit, upscale, canny, softedge"):
        list(handlers.compare(**values(task="../../etc")))


def test_the_family_is_named_with_its_letters_escaped(handlers: Handlers):
    ((line, task, estimate, size, image, rival),) = handlers.introduce()
    assert "webcam" not in image["sources"]
    assert not task["visible"], "there is one task only, and nothing to choose"
    assert not estimate["visible"]
    assert "pocket: 128 px, trained by this repository on drawings &amp; &lt;paintings&gt;, running on CPU" in line
    assert "Loaded: distilled and undistilled." in line


def test_photos_for_depth_come_by_webcam_where_depth_can_be_estimated(handlers: Handlers, engine: CannedEngine):
    told = replace(engine.family(), estimator=True, tasks=("depth", "edit"))
    engine.family = lambda: told
    ((_, _, estimate, _, image, _),) = handlers.introduce()
    assert estimate["visible"]
    assert "webcam" in image["sources"]
    depth, edit = handlers.switch("depth"), handlers.switch("edit")
    assert (depth["estimate"]["visible"], edit["estimate"]["visible"]) == (True, False)
    assert "webcam" in depth["image"]["sources"]


def test_several_tasks_are_all_named(handlers: Handlers, engine: CannedEngine):
    told = replace(engine.family(), tasks=("depth", "edit", "upscale"))
    engine.family = lambda: told
    ((line, *_),) = handlers.introduce()
    assert "undistilled models for depth to image, edit a picture and enlarge a picture." in line


def test_a_page_without_models_says_so(handlers: Handlers, engine: CannedEngine):
    def fail() -> None:
        raise EngineError("The weights are missing; restore them.")

    engine.ready, engine.family = False, fail
    first, last = handlers.introduce()
    assert "models are loading" in first[0]
    assert 'role="alert"' in last[0]
    assert "restore them" in last[0]
    assert "models are loading" in next(handlers.draw(**values()))[0]


def test_what_stands_in_the_distilled_lane_is_named_by_task(handlers: Handlers, engine: CannedEngine):
    tasks = ("depth", "edit", "upscale")
    told = replace(engine.family(), tasks=tasks, students={"depth": "distilled", "edit": "lcm", "upscale": "lcm"})
    engine.family = lambda: replace(told, rivals={"depth": RIVALS, "edit": SAMPLERS, "upscale": SAMPLERS})
    ((line, *_),) = handlers.introduce()
    assert (
        "Loaded: distilled, LCM-LoRA and undistilled models for depth to image; LCM-LoRA and undistilled models "
        in line
    )
    assert "models for edit a picture and enlarge a picture." in line
    engine.family = lambda: replace(told, tasks=("depth",), students={"depth": "lcm"})
    ((line, *_),) = handlers.introduce()
    assert "Loaded: LCM-LoRA and undistilled." in line


def test_rivals_are_offered_where_they_are_at_hand(handlers: Handlers, engine: CannedEngine):
    told = replace(engine.family(), tasks=("depth", "edit"), rivals={"depth": RIVALS, "edit": SAMPLERS})
    engine.family = lambda: told
    ((*_, rival),) = handlers.introduce()
    assert ("LCM-LoRA", "lcm") in rival["choices"]
    depth, edit = handlers.switch("depth"), handlers.switch("edit")
    assert [value for _, value in depth["rival"]["choices"]] == list(RIVALS)
    assert [value for _, value in edit["rival"]["choices"]] == list(SAMPLERS)
    saved = {"task": "edit", "rival": "lcm"}
    assert handlers.restore(saved, "depth")["rival"]["value"] == "ddim", "settings may come from where there are more"
    assert handlers.restore({**saved, "task": "depth"}, "depth")["rival"]["value"] == "lcm"


def test_about_says_what_is_done_to_pictures_here(engine: CannedEngine):
    pocket = engine.family()
    other = replace(pocket, name="sd15")
    checked = replace(other, checker=True)
    assert "An invisible mark is in" in about(Settings(), None)
    assert "An invisible mark is in" not in about(Settings(watermark=False), None)
    assert "safety checker" not in about(Settings(), None), "not known before it is loaded"
    assert "has no safety checker" in about(Settings(), pocket)
    assert "Pictures pass the safety checker" in about(Settings(), checked)
    for text in (about(Settings(), other), about(Settings(safety_checker=False), other)):
        assert "Pictures pass" not in text
        assert "safety checker" in text


def test_words_of_others_are_escaped():
    assert "<b>" not in render_status("error", "<b>")
    assert "<b>" not in render_status("idle", "<b>")


# The page as a whole


@pytest.fixture
def connect(engine: CannedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Client]]:
    """A client of a running server with the canned engine."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    settings = Settings(examples=ROOT / "assets" / "examples")
    with served(engine, settings, read_catalog(settings)) as (_, url):
        yield lambda: Client(url, verbose=False, download_files=str(tmp_path), httpx_kwargs={"timeout": 120})


def test_the_endpoint_streams_every_step(connect: Callable[[], Client], engine: CannedEngine, tmp_path: Path):
    Image.new("L", (20, 20)).save(tmp_path / "map.png")
    client = connect()
    sent = values(image=handle_file(str(tmp_path / "map.png")), seed=3, invert=True)
    job = client.submit(**sent, api_name="/compare")
    *frames, last = [*job, job.result()][:-1]  # iterating by itself would end without a word of what went wrong
    assert [frame[2]["step"] for frame in frames] == [1, 2, 1, 2, *range(1, 15)]
    assert len(last[1]) == 3
    assert last[2]["speed_up"] == pytest.approx(7)
    with Image.open(last[0]) as picture:
        assert (picture.format, picture.info["parameters"]) == ("PNG", '{"step": 2}')
    asked = engine.requests[0]
    assert (asked.prompt, asked.seed, asked.invert, asked.undistilled_steps) == ("a lake", 3, True, 14)
    assert client.predict(api_name="/health") == {"ready": True, "busy": False, "evaluations": 7}


def test_callers_are_told_types_and_get_them(connect: Callable[[], Client], tmp_path: Path):
    Image.new("L", (20, 20)).save(tmp_path / "map.png")
    client, image = connect(), handle_file(str(tmp_path / "map.png"))
    told = client.view_api(print_info=False, return_format="dict")["named_endpoints"]
    alone = ("depth", image, "a lake", 2, 0, "distilled")
    typed = TypeAdapter(StepFacts | run_type())
    for name, given, asked in (("/compare", (), values(image=image, seed=3, size=None)), ("/sample", alone, {})):
        *_, facts = (each["python_type"]["type"] for each in told[name]["returns"])
        assert "step: int" in facts
        assert "speed_up: float | None" in facts
        for *_, answer in client.submit(*given, **asked, api_name=name):
            typed.validate_json(json.dumps(answer), strict=True, extra="forbid")


def test_the_endpoint_answers_a_bad_file_in_a_sentence(connect: Callable[[], Client], tmp_path: Path):
    (tmp_path / "bad.png").write_text("not a picture")
    with pytest.raises(AppError, match="This picture is bad; bring a good one"):
        connect().predict(**values(image=handle_file(str(tmp_path / "bad.png"))), api_name="/compare")
    with pytest.raises(AppError, match="Upload a depth map first"):
        connect().predict(**values(image=None), api_name="/compare")
