"""The demo's parts by themselves: limits, sheets, settings that come back, the viewer."""

# ruff: noqa: F811 - fixtures of other files are imported

from __future__ import annotations

import base64
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from html import unescape
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageSequence
from test_app import CannedEngine, engine, handlers, uploaded, values  # noqa: F401 - fixtures

from app import keepsakes
from app.catalog import read_catalog
from app.engine_files import files_of
from app.hand import Hand
from app.keepsakes import KINDS, PLACE, Keepsakes, Run, Strip
from app.limits import choice, choices, number, optional, whole
from app.schema import (
    LANES,
    RIVALS,
    SETTINGS,
    CompareRequest,
    EngineError,
    Lane,
    LaneReport,
    RunReport,
    RunStart,
    StepFrame,
    settings_of,
)
from app.settings import Settings
from app.sheets import FRAME, HOLD, animation, archive, labelled_sheet
from app.ui_files import file_at
from app.ui_grid import draw_grid
from app.ui_handlers import Handlers
from app.ui_keepsakes import run_of
from app.ui_requests import settings_from, to_request
from app.ui_settings import guided
from app.ui_stage import Stage, Tile, render, render_stored
from app.ui_strips import bands_of, sheet_columns
from app.ui_viewer import render_viewer
from app.ui_words import PLAIN, WORDS, preset, preset_names
from cdd_core.png import png_bytes
from cdd_core.schedule import grid
from cdd_core.watermark import CERTAIN, certainty, mark

LANE = Lane("distilled", "distilled", 1)
RED, BLUE = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))


# Limits


def test_numbers_are_brought_inside():
    assert [whole("x", value, 1, 8) for value in (0, "3", 3.9, 99)] == [1, 3, 3, 8]
    assert [number("x", value, 0.0, 2.0) for value in (-1, "0.5", float("inf"))] == [0.0, 0.5, 2.0]
    assert [optional("x", value, 0.0, 2.0) for value in (None, "", "1.5")] == [None, None, 1.5]


@pytest.mark.parametrize("value", ["much", None, [], {}, float("nan"), "1e999x"])
def test_what_is_no_number_is_a_sentence(value: object):
    for judge in (whole, number):
        with pytest.raises(EngineError, match=r"^The x must be a .*number, not '.*'\.$"):
            judge("x", value, 0, 1)


def test_names_are_those_that_exist():
    assert choice("lane", "same", LANES) == "same"
    assert choices("lane", ["full", "distilled", "full"], LANES) == ("distilled", "full")
    assert choices("lane", "same", LANES) == ("same",)
    for bad in ("Same", None, 3, ["same"]):
        with pytest.raises(EngineError, match="The lane is one of distilled, same, full"):
            choice("lane", bad, LANES)
    for bad in ([], ()):
        with pytest.raises(EngineError, match="at least one"):
            choices("lane", bad, LANES)
    with pytest.raises(EngineError):
        choices("lane", ["same", "other"], LANES)


# Sheets


def test_a_sheet_shows_every_picture_where_its_labels_say():
    cells = {(0, 0): RED, (1, 2): BLUE}
    sheet = np.asarray(labelled_sheet(["a", "b"], ["1", "2", "3"], cells))
    corner = np.asarray(labelled_sheet(["a", "b"], ["1", "2", "3"], cells, "seed 3"))
    assert (corner[:20, :40] < 128).sum() > (sheet[:20, :8] < 128).sum() == 0
    red = np.argwhere((sheet == (255, 0, 0)).all(2))
    blue = np.argwhere((sheet == (0, 0, 255)).all(2))
    assert len(red) == len(blue) == 16 * 16
    assert (red.max(0) < blue.min(0)).all(), "further down and further right"


@pytest.mark.parametrize("file_format", ["GIF", "WEBP"])
def test_an_animation_rests_on_the_results(file_format: str):
    said = {"parameters": '{"prompt": "läke"}', "XML:com.adobe.xmp": "<digital source/>"}
    content = animation([[[RED, BLUE], [BLUE, RED, RED, RED]]], [""], ["a", "b"], file_format, said)
    assert all(words.encode() in content for words in said.values()), "it says how it was made, and that it was made"
    film = Image.open(BytesIO(content))
    if file_format == "WEBP":
        assert film.info["xmp"].decode() == said["XML:com.adobe.xmp"], "where readers of metadata look"
    else:
        packet = said["XML:com.adobe.xmp"].encode()
        place = at = content.index(b"\x21\xff\x0bXMP DataXMP" + packet) + 14
        while content[at]:  # who skips it goes from block to block, and lands behind it
            at += content[at] + 1
        assert at + 1 == place + len(packet) + 258
    assert film.n_frames >= 2
    film.seek(film.n_frames - 1)
    last = np.asarray(film.convert("RGB")).astype(int)
    blue, red = (abs(last - colour).max(2) < 10 for colour in ((0, 0, 255), (255, 0, 0)))
    assert blue.sum() == red.sum() == 16 * 16
    assert np.argwhere(blue).max(0)[1] < np.argwhere(red).min(0)[1], "side by side"
    assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(film)) > FRAME * HOLD


def test_an_animation_leaves_no_step_out():
    for longest in (5, 28, 50):
        films = [[[Image.new("RGB", (4, 4), (5 * k, 0, 0)) for k in range(longest)], [BLUE.resize((4, 4))]]]
        with Image.open(BytesIO(animation(films, [""], ["a", "b"], "WEBP", {}))) as film:
            reds = [np.asarray(frame.convert("RGB"))[..., 0] for frame in ImageSequence.Iterator(film)]
        assert [int(red[28, 14]) for red in reds] == [5 * k for k in range(longest)]


def test_an_animation_of_large_pictures_shows_the_first_seed():
    films = [[[picture.resize((512, 512))]] * 3 for picture in (RED, BLUE)]
    with Image.open(BytesIO(animation(films, ["seed 1", "seed 2"], ["a", "b", "c"], "GIF", {}))) as film:
        assert film.height < 600


def test_what_is_made_of_marked_pictures_shows_the_mark():
    """Sheets and animations at least as surely as a picture by itself."""
    stored = Path(__file__).parents[1] / "assets" / "examples" / "stored"
    pictures = [mark(Image.open(file).convert("RGB")) for file in sorted(stored.glob("c*.png"))]
    assert len(pictures) > 2
    made = [labelled_sheet(["a", "b", "long label"], ["1"], {(i, 0): p for i, p in enumerate(pictures[:3])}, "seed 3")]
    for kind in ("GIF", "WEBP"):
        films = [[[p] for p in pictures[:3]]]
        with Image.open(BytesIO(animation(films, ["seed 3"], ["a", "b", "c"], kind, {}))) as film:
            film.seek(film.n_frames - 1)
            made.append(film.convert("RGB"))
    least = min(map(certainty, pictures[:3]))
    assert all(certainty(each) > max(CERTAIN, 0.9 * least) for each in made)


def test_an_archive_holds_the_files_as_they_are(tmp_path: Path):
    (tmp_path / "b").write_bytes(b"bytes")
    packed = zipfile.ZipFile(BytesIO(archive({"a.png": tmp_path / "b"}, {"seed": 3, "prompt": "ä"})))
    assert packed.read("a.png") == b"bytes"
    assert json.loads(packed.read("trace.json")) == {"seed": 3, "prompt": "ä"}


# Settings that come back


def test_settings_make_the_same_request_again():
    request = CompareRequest(
        "map.png", "a lake", 9, 2, 30, True, lanes=("distilled", "full"), rival="unipc", pictures=3, guidance=1.5
    )
    sent = json.loads(json.dumps(settings_of(request)))
    assert set(sent) == set(SETTINGS)
    again = to_request(image="map.png", randomise=False, **settings_from(sent))
    assert settings_of(again) == settings_of(request)


def test_the_settings_of_a_picture_become_those_of_its_lane():
    found = settings_from({"variant": "undistilled", "steps": 20, "seed": 4, "task": "depth", "t": 3})
    assert found == {"undistilled_steps": 20, "seed": 4, "task": "depth"}


def test_a_picture_brings_back_its_whole_run():
    request = CompareRequest(
        "map.png", "a lake", 9, 2, 30, lanes=("distilled",), pictures=3, negative="fog", control=0.5
    )
    found = {"task": "depth", "variant": "distilled", "steps": 2, "seed": 11, "guidance": 1.0, "negative": ""}
    assert settings_from({**found, "settings": settings_of(request)}) == settings_of(request)
    assert settings_from(found).keys() == {"task", "seed", "distilled_steps"}, "its guidance is not the other lanes'"


@pytest.mark.parametrize(
    "found",
    [
        {"task": "other"},
        {"prompt": 3},
        {"seed": "7"},
        {"lanes": ["x"]},
        {"lanes": []},
        {"invert": "yes"},
        {"seed": True},
        {"seed": float("nan")},
        {"distilled_steps": float("inf")},
        {"seed": 10**400},
    ],
)
def test_settings_of_another_kind_are_left_out(found: dict):
    assert settings_from(found) == {}


def test_a_link_sets_the_widgets(handlers: Handlers, engine: CannedEngine):
    both = replace(engine.family(), tasks=("depth", "edit"))
    engine.family = lambda: both
    settings = {"task": "edit", "prompt": "make it night", "seed": 5, "distilled_steps": 2}
    updates = handlers.follow(SimpleNamespace(query_params={"settings": json.dumps(settings)}))
    assert updates["prompt"]["value"] == "make it night"
    assert updates["prompt"]["label"] == "Instruction"
    assert (updates["seed"]["value"], updates["randomise"]["value"]) == (5, False)
    assert "choose it again" in updates["status"]


def test_settings_for_the_same_task_leave_picture_and_results_alone(handlers: Handlers):
    updates = handlers.remember(SimpleNamespace(settings=settings_of(CompareRequest("a.png", seed=8))), "depth")
    assert not {"image", "stage"} & updates.keys()
    assert [updates[name]["value"] for name in ("guidance", "image_guidance", "size")] == ["", "", ""]


def test_a_size_that_the_models_lack_is_their_own(handlers: Handlers, engine: CannedEngine):
    other = replace(engine.family(), sizes=(512, 768))
    assert handlers.remember(SimpleNamespace(settings={"size": 768}))["size"]["value"] == ""
    engine.family = lambda: other
    assert handlers.remember(SimpleNamespace(settings={"size": 768}))["size"]["value"] == 768


def test_a_picture_that_was_swept_away_is_told(handlers: Handlers):
    image = uploaded("gone.png")
    Path(image["path"]).unlink()
    with pytest.raises(EngineError, match="isn't kept any longer"):
        handlers.request(**values(image=image))


def test_settings_for_a_task_without_models_change_nothing(handlers: Handlers, engine: CannedEngine):
    link = SimpleNamespace(query_params={"settings": '{"task": "edit", "prompt": "make it night"}'})
    updates = handlers.follow(link)
    assert updates.keys() == {"status"}
    assert "Edit a picture" in updates["status"]

    def fail() -> None:
        raise EngineError("The weights are missing; restore them.")

    engine.family = fail
    assert "restore them" in handlers.follow(link)["status"]


@pytest.mark.parametrize("link", ["", "{", "[]", "3", "[" * 5000, '{"seed": "x"}'])
def test_a_broken_link_changes_nothing(handlers: Handlers, link: str):
    assert handlers.follow(SimpleNamespace(query_params={"settings": link} if link else {})) == {}


def test_the_history_and_a_png_restore(handlers: Handlers):
    assert handlers.remember(SimpleNamespace(settings={"seed": 8}))["seed"]["value"] == 8
    assert handlers.remember(SimpleNamespace()) == {}
    updates = handlers.reload("good.png")
    assert (updates["prompt"]["value"], updates["distilled_steps"]["value"]) == ("kept", 3)
    assert updates["preset"]["value"] is None, "these are of no preset"
    with pytest.warns(UserWarning, match="doesn't say how it was made"):
        assert "doesn&#x27;t say how it was made" in handlers.reload("bad.png")["status"]


def test_the_run_tells_how_to_do_it_again(handlers: Handlers):
    last = str(list(handlers.draw(**values()))[-1][1])
    told = json.loads(unescape(last.split('data-settings="')[1].split('"')[0]))
    assert (told["seed"], told["prompt"], told["undistilled_steps"]) == (5, "a lake", 14)
    assert "depth error 0.0312 (less is better)" in last


def test_what_can_be_saved_is_made_when_it_is_asked_for(handlers: Handlers):
    last, folder = str(list(handlers.draw(**values()))[-1][1]), Path(handlers.files.owner.GRADIO_CACHE)
    assert not [*folder.rglob("*.gif"), *folder.rglob("*.zip")]
    made: dict[str, Path] = {}
    for kind, title in KINDS.items():
        token = re.search(f'href="{PLACE}/([^"/]+)/{kind}" download>{re.escape(title)}<', last)[1]
        made[kind] = handlers.keepsakes.file(token, kind)
        assert made[kind].is_relative_to(folder)
        assert handlers.keepsakes.file(token, kind) == made[kind]
        assert b"trainedAlgorithmicMedia" in made[kind].read_bytes()
        assert b'"seed": 5' in made[kind].read_bytes()
    with zipfile.ZipFile(made["zip"]) as packed:
        assert len(packed.namelist()) == 1 + 18 + 1
        trace = json.loads(packed.read("trace.json"))
    assert trace["family"] == "pocket"
    assert trace["lanes"]["full"]["timesteps"] == [999 - i for i in range(14)]
    assert [step["t"] for step in trace["steps"]] == 2 * [999, 998] + [999 - i for i in range(14)]
    for path in folder.rglob("*.png"):
        path.unlink()
    made["gif"].unlink()
    assert handlers.keepsakes.file(token, "webp") == made["webp"], "what was made is still here"
    for name, kind in ((token, "gif"), (token, "exe"), ("unknown", "zip")):
        with pytest.raises(KeyError):
            handlers.keepsakes.file(name, kind)


def test_only_so_many_runs_are_remembered_and_so_many_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(keepsakes, "RUNS", 2)
    monkeypatch.setattr(keepsakes, "PATIENCE", 0.0)
    told: list[str] = []
    kept, condition = Keepsakes(), tmp_path / "map.png"
    RED.save(condition)
    strip = Strip("a", 3, (condition,), (condition,), (0,))

    def store(content: bytes, name: str) -> str:
        if name == "slow-sheet.png":
            with pytest.raises(TimeoutError):
                kept.file(last, "zip")
            told.append(name)
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    def token(stem: str) -> str:
        run = Run((strip,), condition, "Map", ("",), {}, {}, stem, store)
        return kept.keep(run)["GIF"].split("/")[-2]

    first, slow, last = token("first"), token("slow"), token("last")
    with pytest.raises(KeyError):
        kept.file(first, "zip")
    assert kept.file(slow, "sheet").is_file(), "and meanwhile another was told to come back"
    assert kept.file(last, "zip").is_file()
    assert told == ["slow-sheet.png"], "somebody did come meanwhile"
    for _ in range(keepsakes.WAITING):
        kept._waiting.acquire()
    with pytest.raises(TimeoutError):
        kept.file(token("late"), "gif")


@pytest.mark.parametrize("few", range(2, 9))
def test_what_is_equally_noisy_stands_in_one_band(few: int):
    """The shortest strip's steps begin the bands; a long one's tiles lie inside, in order, none on another."""
    short, long = grid(few, 20, 1000), grid(50, 50, 1000)
    bands = bands_of({"distilled": short, "same": [t + 3 for t in short], "full": long})
    assert bands.of(short) == bands.of([t + 3 for t in short]) == tuple(range(few))
    found = bands.of(long)
    assert list(found) == sorted(found)
    for t, band in zip(long, found, strict=True):
        assert band == 0 or t <= short[band]
        assert band + 1 == few or t > short[band + 1]
    for columns in (8, 16):
        wide = [tuple(map(int, re.findall(r"\d+", place))) for place in bands.places(short, columns)]
        each = columns // few
        assert wide == [(1, band * each + 1, each) for band in range(few)]
        small = [tuple(map(int, re.findall(r"\d+", place))) for place in bands.places(long, columns)]
        assert len(set(small)) == 50
        assert all((column - 1) // each == band for (_, column), band in zip(small, found, strict=True))


def test_strips_that_say_nothing_of_each_other_have_no_bands():
    for lengths in ((4, 4, 4), (1, 1, 50), (9, 50), (3,)):
        assert bands_of({str(k): grid(n, 50, 1000) for k, n in enumerate(lengths)}) is None
    uneven = {"distilled": grid(4, 50, 1000, 0.2), "same": grid(4, 50, 1000), "full": grid(50, 50, 1000)}
    assert bands_of(uneven) is None, "three of four steps would share the last band"


@pytest.mark.parametrize(
    ("lengths", "heads", "columns"),
    [
        ((3, 3), ["step 1", "step 2", "step 3"], [(0, 1, 2), (0, 1, 2)]),
        ((1, 4), ["", "", "", "result"], [(3,), (0, 1, 2, 3)]),
        ((2, 4), ["from t = 999", "from t = 499"], [(0, 1), (0, 0, 1, 1)]),
        ((1, 10), ["", "", "result"], [(2,), (0, 0, 0, 0, 1, 1, 1, 2, 2, 2)]),
    ],
)
def test_the_columns_of_a_contact_sheet(lengths: tuple[int, ...], heads: list[str], columns: list[tuple[int, ...]]):
    most = 3 if max(lengths) == 10 else 8
    times = {str(n): grid(n, 20, 1000) for n in lengths} if len(set(lengths)) > 1 else {"a": range(3), "b": range(3)}
    found, placed = sheet_columns(times, most)
    assert list(found) == heads
    assert list(placed.values()) == columns


def test_a_link_shows_nothing_that_widgets_cannot():
    wild = {"control": 50, "distilled_steps": 9999, "pictures": -3, "rival": "foo", "preview": "fast", "seed": -1}
    expected = {"control": 2.0, "distilled_steps": 8, "pictures": 1, "preview": "fast", "seed": 0}
    assert settings_from(wild) == expected


def test_a_picture_in_colour_is_taken_for_no_depth_map_in_silence(handlers: Handlers):
    for name, task, words in (
        ("photo", "depth", "is in colour"),
        ("map", "depth", "Ready"),
        ("photo", "edit", "Ready"),
    ):
        ((status, _),) = handlers.look(task, uploaded(f"{name}.png"), False, 0)
        assert words in status


def test_an_error_before_the_first_step_leaves_the_results(handlers: Handlers):
    stages = []
    with suppress(gr.Error):
        stages.extend(stage for _, stage, _ in handlers.draw(**values(image=uploaded("bad.png"))))
    assert stages == [gr.skip()] * 2, "in the words before, and in those of the error"


def test_who_leaves_waits_for_nobody_and_the_hand_comes_round_to_it():
    """The server's own loop may be the one who leaves, while the hand reads another visitor's large picture."""
    hand, free, order = Hand(), threading.Event(), []

    def steps() -> Iterator[int]:
        try:
            yield from (1, 2)
        finally:
            order.append("closed")

    run = hand.over(steps())
    assert next(run) == 1
    begun = threading.Event()

    def read() -> None:
        begun.set()
        free.wait()

    reading = threading.Thread(target=hand.do, args=(read,))
    reading.start()
    begun.wait()
    run.close()
    assert order == []
    free.set()
    hand.do(order.append, "next")
    assert order == ["closed", "next"]
    reading.join()


# The rest of the page


def test_a_drawn_map_becomes_a_file(handlers: Handlers):
    written = BytesIO()
    RED.save(written, "PNG")
    sent = "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
    path = Path(handlers.draw_map(SimpleNamespace(picture=sent)))
    assert path.read_bytes() == written.getvalue()
    for bad in ("", "data:image/png;base64,", "data:image/png;base64,???", "../../etc/passwd", "A" * 3_000_000):
        with pytest.raises(gr.Error, match="didn't arrive"):
            handlers.draw_map(SimpleNamespace(picture=bad))


def test_unknown_tasks_never_reach_the_engine(handlers: Handlers, engine: CannedEngine):
    verdicts = dict(zip(values(), handlers.check(**values(task="../etc")), strict=True))
    assert [name for name, verdict in verdicts.items() if not verdict["is_valid"]] == ["task"]
    assert engine.requests == []


def test_no_lane_is_no_run(handlers: Handlers):
    verdicts = dict(zip(values(), handlers.check(**values(lanes=[])), strict=True))
    assert [name for name, verdict in verdicts.items() if not verdict["is_valid"]] == ["lanes"]


def test_the_grid_shows_itself_growing(handlers: Handlers, engine: CannedEngine):
    shown = list(draw_grid(handlers, "models", [1, 2], values()))
    assert len(shown) == 3
    assert ["Reading" in shown[0][0], "1 of 2" in shown[1][0], "Done" in shown[2][0]] == [True] * 3
    assert shown[1][1] != shown[2][1]
    path = re.search('href="gradio_api/file=([^"]+)"', shown[2][1])[1]
    with Image.open(unquote(path)) as sheet:
        assert sheet.info["parameters"] == '{"done": 2}'
    handlers.stopped("going on", "abc")
    assert len(list(draw_grid(handlers, "models", [1, 2], values(), "abc"))) == 1, "it was stopped before it came"
    with pytest.raises(gr.Error, match="number of steps"):
        list(draw_grid(handlers, "models", [], values()))
    with pytest.raises(gr.Error, match="Upload a depth map first"):
        list(draw_grid(handlers, "models", [1], values(image=None)))
    with pytest.raises(gr.Error, match="Say what to change"):
        list(draw_grid(handlers, "models", [1], values(task="edit", prompt=" ")))


def test_the_viewer_begins_with_distilled_against_full():
    page = render_viewer({"Distilled": "d.png", "Few": "f.png", "Full <b>": "u.png", "Depth map": "m.png"})
    assert '<img src="d.png" alt="left: Distilled">' in page
    assert '<img src="u.png" alt="right: Full &lt;b&gt;">' in page
    assert page.count("selected") == 2
    assert '<option value="m.png">Depth map</option>' in page
    page = render_viewer({"Distilled": "d.png", "Full": "u.png", "Picture": "p.png"}, before=True)
    assert '<img src="p.png" alt="left: Picture">' in page
    assert '<img src="d.png" alt="right: Distilled">' in page
    lanes = {f"{name}, seed {k}": f"{name}{k}.png" for name in ("a", "b", "c") for k in (3, 4)}
    page = render_viewer({**lanes, "Depth map": "m.png"}, each=2)
    assert '<img src="a3.png" alt="left: a, seed 3">' in page
    assert '<img src="c3.png" alt="right: c, seed 3">' in page, "of the same noise"


def test_every_result_can_be_looked_at():
    """Also where two lanes have as many steps, and of several pictures."""
    lanes = (Lane("same", "undistilled", 1), Lane("full", "undistilled", 1))
    stage = Stage(lanes=lanes, pictures=2, started=True)
    for lane in lanes:
        for k in range(2):
            stage.add(Tile(f"{lane.key}{k}.png", StepFrame(lane, 0, 1, 999, 1, 0.1, RED, k, 7 + k)))
    stage.report = RunReport(CompareRequest("a.png", pictures=2), tuple(LaneReport(e, (RED,), 1, 0.1) for e in lanes))
    page = render(stage)
    offered = re.findall(r'<option value="(\w+).png"(?: selected)?>Undistilled, 1 step', page)
    assert offered == 2 * ["same0", "same1", "full0", "full1"], "on both sides"


def test_before_and_after_is_what_changed_pictures_begin_with(handlers: Handlers):
    """And a small picture stands below its plain enlargement; what gets large has wide cards."""
    request = CompareRequest("a.png", task="upscale", seed=1)
    stage = Stage("upscale")
    handlers._note(stage, RunStart(request, (LANE,), RED, BLUE))
    handlers._note(stage, StepFrame(LANE, 0, 1, 999, 1, 0.1, RED, png=b"x"))
    handlers._note(stage, RunReport(request, (LaneReport(LANE, (RED,), 1, 0.1),)))
    page = render(stage)
    assert 'alt="left: Bicubic enlargement"' in page
    assert 'alt="right: Distilled, 1 step"' in page
    assert page.index('id="card-map"') < page.index('id="given"') < page.index('id="card-distilled"')
    assert 'id="given"' not in render(Stage("edit", lanes=(LANE,), started=True))
    assert "cdd-large" not in page
    for size, shape in (((400, 200), "2"), ((200, 400), "1")):
        handlers._note(stage, RunStart(request, (LANE,), RED.resize(size), BLUE))
        assert f'class="cdd-stage cdd-large" style="--shape: {shape}"' in render(stage)
        assert f"--shape: {shape}" in render_stored("upscale", "a.png", [], size)
    for degradation, note in ((0.0, "what there is"), (0.5, "made small and damaged")):
        damaged = replace(request, degradation=degradation)
        handlers._note(stage, RunStart(damaged, (LANE,), RED, BLUE, uploaded=BLUE.size))
        assert note in render(stage), "also of the size it came in"


@pytest.mark.parametrize("watermark", [True, False])
def test_large_pictures_have_smaller_versions_for_strips_and_animations(watermark: bool):
    """They say too that a model drew them, and are marked anew."""
    large = Image.effect_noise((512, 384), 40).convert("RGB")
    image, png, small = files_of(large, {"task": "edit", "seed": 7}, watermark)
    assert image.size == Image.open(BytesIO(png)).size == large.size
    shown = Image.open(BytesIO(small))
    assert shown.size == (288, 216)
    assert b"compositeWithTrainedAlgorithmicMedia" in shown.info["xmp"]
    for picture in (image, shown):
        assert (certainty(picture) > CERTAIN) == watermark
    assert files_of(large.resize((288, 200)), {}, watermark).small == b""


def test_strips_and_animations_show_smaller_versions(handlers: Handlers):
    stage = Stage(lanes=(LANE,), started=True)
    for i, small in enumerate((b"", png_bytes(BLUE.resize((8, 8))))):
        handlers._note(stage, StepFrame(LANE, i, 2, 999, 1, 0.1, RED, png=png_bytes(RED), small=small))
    first, second = stage.drawn(LANE, 0)
    page = render(stage)
    assert f'<img src="{first.url}" data-whole="{first.url}"' in page
    assert f'<img src="{second.small}" data-whole="{second.url}"' in page
    stage.condition, report = first.url, RunReport(CompareRequest("a.png", seed=1), ())
    (strip,) = run_of(stage, report, handlers.files.store).strips
    assert strip.files == (file_at(first.url), file_at(second.url))
    assert strip.small == (file_at(first.url), file_at(second.small))


def test_animations_and_sheets_are_made_of_the_smaller_versions(tmp_path: Path):
    """The map beside them shrinks with them."""
    whole, small = tmp_path / "whole.png", tmp_path / "small.png"
    RED.resize((512, 256)).save(whole)
    BLUE.resize((64, 32)).save(small)
    run = Run((Strip("a", 3, (whole,), (small,), (0,)),), whole, "Map", ("",), {}, {}, "a", lambda *_: "")
    for kind in ("gif", "sheet"):
        made = Image.open(BytesIO(keepsakes._content(run, kind))).convert("RGB")
        assert made.width < 300, kind
        assert any(blue > 200 and red < 50 for _, (red, _, blue) in made.getcolors(1 << 16))


def test_guidance_is_greyed_where_no_lane_has_it():
    assert [update["interactive"] for update in guided(["distilled"], "ddim")] == [False] * 3
    assert "never guided" in guided(["distilled"], "ddim")[2]["info"]
    assert [update["interactive"] for update in guided(["distilled", "full"], "lcm")] == [True] * 3
    assert [guided(["distilled", "same"], rival)[0]["interactive"] for rival in RIVALS] == [True, True, True, False]


def test_a_preset_sets_what_it_changes_and_puts_back_the_rest():
    assert preset("depth", "Thorough", 30)["distilled_steps"] == 8
    assert preset("depth", "Thorough", 30)["undistilled_steps"] == 30, "no more than there may be"
    for task in WORDS:
        assert preset(task, "Standard", 50) == PLAIN
        for name in preset_names(task):
            assert preset(task, name, 50).keys() == PLAIN.keys()
    assert preset("edit", "Undistilled, bolder", 50)["image_guidance"] == "1"


def test_a_forged_preset_changes_nothing(handlers: Handlers):
    assert handlers.choose("depth", "Undistilled, bolder") == handlers.choose("nothing", "Quick") == {}
    assert handlers.choose(["edit"], {}) == {}
    assert handlers.choose("edit", "Undistilled, bolder")["image_guidance"]["value"] == "1"


def test_one_model_can_be_asked_through_the_api(handlers: Handlers, engine: CannedEngine):
    *_, last = handlers.sample("depth", uploaded("map.png"), "a lake", 3, 4, "undistilled")
    assert (engine.requests[0].lanes, engine.requests[0].undistilled_steps) == (["full"], 3)
    assert last[2]["seed"] == 4
    with pytest.raises(gr.Error, match="distilled or undistilled"):
        list(handlers.sample("depth", uploaded("map.png"), "", 3, None, "teacher"))


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "map.png", "https://example.org/a.png", "../map.png", "", None, 3, "\0", ["a"], "data:,x"]
)
def test_files_from_elsewhere_are_refused(handlers: Handlers, engine: CannedEngine, path: object):
    image = {"path": path}
    for ask in (
        lambda: list(handlers.compare(**values(image=image))),
        lambda: list(handlers.draw(**values(image=image))),
        lambda: list(handlers.sample("depth", image, "", 1, 1, "distilled")),
        lambda: list(draw_grid(handlers, "models", [1], values(image=image))),
    ):
        with pytest.raises(gr.Error, match="Upload a depth map first|wasn't uploaded here"):
            ask()
    with pytest.warns(UserWarning, match="Upload|uploaded"):
        ((status, _),) = handlers.look("depth", image, False, 0, False)
    assert re.search("Upload a depth map first|wasn&#x27;t uploaded here", status)
    assert engine.requests == []


def test_a_way_out_of_the_folder_is_refused(handlers: Handlers, engine: CannedEngine):
    inside = uploaded("map.png")["path"]
    with pytest.raises(gr.Error, match="wasn't uploaded here"):
        list(handlers.compare(**values(image={"path": inside + "/../../../../etc/passwd"})))
    assert engine.requests == []


def test_examples_show_what_was_drawn_before(
    handlers: Handlers, engine: CannedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "examples"
    (folder / "stored").mkdir(parents=True)
    for path in (folder / "a.png", folder / "b.png", folder / "stored" / "a-full.png"):
        RED.save(path)
    rows = [f"- {{file: {n}.png, title: A, prompt: {p}, source: s, licence: l}}" for n, p in (("a", "p"), ("b", "q"))]
    (folder / "examples.yaml").write_text("\n".join(rows))
    (folder / "stored" / "stored.yaml").write_text(
        "- {example: a.png, file: a-full.png, lane: full, variant: undistilled, steps: 50, nfe: 100}\n"
    )
    handlers.catalog = read_catalog(Settings(checkpoints=tmp_path, examples=folder))
    number, file, *others = handlers.pick(SimpleNamespace(index=1))
    assert (number, others) == (1, ["q", False, 0, False, False])
    assert Path(file).read_bytes() == (folder / "b.png").read_bytes()
    assert Path(file).is_relative_to(tmp_path / "gradio"), "Gradio serves no file from elsewhere"
    with monkeypatch.context() as patch:
        patch.setattr(engine, "look", None)  # it would wait for the models
        ((status, stage),) = handlers.recall("depth", uploaded("a.png"), 0)
    assert "drawn before" in status
    assert "Undistilled, 50 steps" in stage
    assert "stored result, 100 evaluations" in stage
    monkeypatch.setattr(engine, "name", "sd15")
    assert "drawn before" not in next(handlers.recall("depth", uploaded("a.png"), 0))[0], "not by these models"
    monkeypatch.setattr(engine, "name", "pocket")
    ((status, stage),) = handlers.recall("depth", uploaded("b.png"), 1)
    assert "Ready" in status
    assert "stored result" not in stage
    rows[1] = rows[1].replace("licence: l", "licence: l, task: edit, truth: a.png")
    (folder / "examples.yaml").write_text("\n".join(rows))
    catalog = read_catalog(Settings(checkpoints=tmp_path, examples=folder))
    assert catalog.truth("edit", folder / "b.png", " q ") == folder / "a.png"
    BLUE.save(folder / "other.png")
    for task, picture, prompt in (("edit", "b", "p"), ("edit", "other", "q"), ("depth", "a", "p")):
        assert catalog.truth(task, folder / f"{picture}.png", prompt) is None
    (folder / "stored" / "stored.yaml").write_text("- {file: a-full.png, lane: full}\n")
    with pytest.raises(ValueError, match="can't read"):
        read_catalog(Settings(checkpoints=tmp_path, examples=folder))
