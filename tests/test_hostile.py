"""What strangers send: broken files and forged calls, over HTTP, to the real engine on tiny models."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import gradio as gr
import httpx
import matplotlib
import numpy as np
import pytest
from gradio_client import Client
from pictures import PHOTO, RAMP, RAMP8, encoded, frames
from PIL import Image
from served import served

from app.engine import Engine
from app.keepsakes import BUSY, GONE, PLACE, Keepsakes, Run, Strip
from app.schema import EngineError
from app.settings import Settings
from app.ui_public import BROKEN, NO_ADDRESS, refusal
from benchmarks.load import ask

SOUND = {
    "map.png": encoded(Image.fromarray(RAMP)),
    "photo.png": encoded(PHOTO),
    "photo.jpg": encoded(PHOTO, "JPEG"),
    "map.tiff": encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    "photo.webp": encoded(PHOTO, "WEBP"),
    "moving.gif": frames("GIF", 2),
}
NOWHERE = encoded(Image.fromarray(np.full((64, 64), np.nan, np.float32)), "TIFF")
FUZZED = 200
LEAKS = ("Traceback", "/tmp", "site-packages", 'File "', "Errno", "0x7")
DATA = ["depth", None, "a lake", 3, False, 1, 1, False, 0, ["distilled"], "ddim", 1, "", "", "", 1, "full"]
DATA += [False, "", False]


class Writes:
    """Every file that this process opens to write, makes, moves or deletes, as Python itself reports it."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.watching = True
        sys.addaudithook(self._hear)

    def _hear(self, event: str, given: tuple) -> None:
        if not self.watching or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink"):
            return
        if event == "open" and not (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        some = given[:2] if event in ("os.rename", "os.link", "os.symlink") else given[:1]
        self.paths.update(os.path.abspath(os.fsdecode(path)) for path in some if isinstance(path, str | bytes | Path))

    def outside(self, folder: Path) -> set[str]:
        """Those that lie elsewhere, but for what tests write themselves and a client in this very process (in folders
        named by forty digits), devices, what Python compiles, and files without a name, which hold large uploads on
        their way (a folder is opened for them)."""
        allowed = (str(folder), str(folder.parent / "test_"), "/dev/")
        client = re.compile(rf"{re.escape(tempfile.gettempdir())}/[0-9a-f]{{40}}(/|$)")
        away = {path for path in self.paths - {tempfile.gettempdir()} if not path.startswith(allowed)}
        return {path for path in away if "__pycache__" not in path and not client.match(path)}


class Server:
    """A running demo, and what one does to it."""

    def __init__(self, url: str, files: Path, demo: gr.Blocks, keepsakes: Keepsakes) -> None:
        self.files, self.demo, self.keepsakes = files, demo, keepsakes
        self.http = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def upload(self, name: str, content: bytes) -> str:
        """The path the server gives to a file."""
        answer = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        assert answer.status_code == 200, answer.text
        return answer.json()[0]

    def call(self, endpoint: str, data: object) -> tuple[int, str]:
        """Status and text of a call, its stream read to the end."""
        return self._answered(f"call/{endpoint}", {"data": data})

    def _answered(self, path: str, body: object) -> tuple[int, str]:
        # Not json=, which can't write half letters.
        sent = {"content": json.dumps(body), "headers": {"content-type": "application/json"}}
        answer = self.http.post(f"/gradio_api/{path}", **sent)
        if answer.status_code != 200 or "event_id" not in answer.json():
            return answer.status_code, answer.text
        name, event = path.removeprefix("call/v2/").removeprefix("call/"), answer.json()["event_id"]
        where = f"queue/data?session_hash={body['session_hash']}" if path == "queue/join" else f"call/{name}/{event}"
        return 200, self.http.get(f"/gradio_api/{where}").text

    def named(self, endpoint: str, **data: object) -> tuple[int, str]:
        """A call by the names of its inputs."""
        return self._answered(f"call/v2/{endpoint}", data)

    def event(self, number: int, data: object, told: object = None) -> str:
        """What the page is answered to one of its own events; ``told`` comes along with a click."""
        body = {"fn_index": number, "data": data, "event_data": told, "session_hash": "somebody", "trigger_id": None}
        queued = self.demo.fns[number].queue
        return self._answered("queue/join" if queued else "run/predict", body)[1]

    def fn(self, name: str) -> int:
        """The number of the page's first event with this handler."""
        return next(i for i, function in self.demo.fns.items() if function.name == name)

    def alive(self) -> bool:
        """It answers, and nobody holds the device."""
        health = self.http.get("/health").json()
        return health["ready"] and not health["busy"]


@pytest.fixture(scope="module")
def server(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Whatever it is asked for, it writes into its folder of files alone."""
    files = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(files))
        settings = Settings(checkpoints=family.parent, family=family.name, device="cpu", max_seconds=120)
        engine = Engine(settings)
        keepsakes = Keepsakes()
        with served(engine, settings, keepsakes=keepsakes) as (demo, url):
            engine.family()
            # The judge's library makes its folders when it is imported.
            for made in (matplotlib.get_cachedir, matplotlib.get_configdir):
                made()
            writes = Writes()
            yield Server(url, files, demo, keepsakes)
            writes.watching = False
        assert writes.paths
        assert writes.outside(files) == set()


def request(**changes: object) -> list[object]:
    """The arguments of ``/compare``, some of them replaced by position."""
    data = list(DATA)
    for key, value in changes.items():
        data[int(key[1:])] = value
    return data


def assert_sentence(text: str) -> None:
    """An error that a person can read, and that gives nothing away."""
    assert "event: error" in text
    message = json.loads(text.split("data: ")[-1])
    words = message["error"] if isinstance(message, dict) else message
    assert words, "an empty error says nothing"
    assert str(words).strip("'").endswith((".", "!"))
    assert not any(leak in text for leak in LEAKS), text


def test_a_sound_call_is_drawn(server: Server):
    status, text = server.call("compare", request(_1={"path": server.upload("map.png", SOUND["map.png"])}))
    assert status == 200
    assert "event: complete" in text


def test_two_hundred_broken_files_are_each_a_sentence(server: Server):
    """Sound files with bytes changed, cut off, put in or repeated; some remain pictures, and are drawn."""
    rng = np.random.default_rng(0)
    names, refused = list(SOUND), 0
    before = sorted(path for path in server.files.parent.iterdir())
    for _ in range(FUZZED):
        name = names[rng.integers(len(names))]
        content = bytearray(SOUND[name])
        for _ in range(rng.integers(1, 20)):
            at = int(rng.integers(len(content)))
            match rng.integers(4):
                case 0:
                    content[at] = rng.integers(256)
                case 1:
                    del content[at:]
                case 2:
                    content[at:at] = bytes(rng.integers(0, 256, 8, dtype=np.uint8))
                case _:
                    content += content[at : at + 64]
            content = content or bytearray(b"x")
        status, text = server.call("compare", request(_1={"path": server.upload(name, bytes(content))}))
        assert status == 200
        if "event: complete" not in text:
            assert_sentence(text)
            refused += 1
    assert refused > FUZZED / 4
    assert server.alive()
    assert sorted(path for path in server.files.parent.iterdir()) == before, "nothing was written elsewhere"


HUGE = "x" * 1_000_000
FORGED = {
    "no picture": request(),
    "a path of the server": request(_1={"path": "/etc/passwd"}),
    "a way out": request(_1={"path": "../../../../etc/passwd"}),
    "somebody's address": request(_1={"path": "http://127.0.0.1:1/a.png", "url": "http://127.0.0.1:1/a.png"}),
    "a text for a picture": request(_1="map.png"),
    "a list for a picture": request(_1=["map.png"]),
    "a number for a picture": request(_1=7),
    "a picture of nothing": request(_1={"path": None, "meta": {"_type": "gradio.FileData"}}),
    "half a letter in a path": request(_1={"path": "/tmp/\ud800.png"}),
    "a path without end": request(_1={"path": "a/" * 100_000}),
    "another task": request(_0="../../etc"),
    "a list for a task": request(_0=["depth"]),
    "an object for a task": request(_0={"depth": 1}),
    "a number for a task": request(_0=3),
}
WRONG = {
    "steps that are words": {"_5": "many"},
    "steps that are a list": {"_6": [1, 2]},
    "no steps": {"_5": None},
    "a seed that is an object": {"_3": {"a": 1}},
    "lanes that don't exist": {"_9": ["best"]},
    "no lanes": {"_9": []},
    "lanes that are a number": {"_9": 5},
    "a sampler that doesn't exist": {"_10": "euler"},
    "pictures that are words": {"_11": "all"},
    "guidance that is words": {"_12": "strong"},
    "a negative prompt nobody hears": {"_9": ["distilled", "full"], "_14": "fog"},
    "control that is words": {"_15": "much"},
    "a preview that doesn't exist": {"_16": "none"},
    "a size that is a list": {"_18": [64]},
    "a size of nobody's": {"_18": 80},
    "a size without end": {"_18": 1e300},
    "a degradation that is words": {"_8": "bad"},
}
ODD = {
    "numbers out of range": {"_3": -(10**30), "_5": 10**9, "_6": -3, "_8": 1e9, "_11": 99, "_15": -1},
    "a huge prompt": {"_2": HUGE},
    "a prompt that is an object": {"_2": {"a": [1]}},
    "half a letter in a prompt": {"_2": "a \ud800 lake"},
    "a prompt in no language": {"_2": "\u0000\ud7ff\U0001f3d4" * 50},
    "truth in words": {"_7": "yes", "_4": "no"},
    "a lane by itself": {"_9": "distilled"},
    "guidance out of range": {"_12": 1e12},
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_calls_are_a_sentence(server: Server, name: str):
    status, text = server.call("compare", FORGED[name])
    if status == 200:
        assert_sentence(text)
    else:
        assert 400 <= status < 500, "refused by Gradio itself"
        assert not any(leak in text for leak in LEAKS)
    assert server.alive()


@pytest.mark.parametrize("name", WRONG)
def test_values_of_the_wrong_kind_are_a_sentence(server: Server, name: str):
    path = server.upload("map.png", SOUND["map.png"])
    status, text = server.call("compare", request(_1={"path": path}, **WRONG[name]))
    assert status == 200
    assert_sentence(text)
    assert server.alive()


@pytest.mark.parametrize("name", ODD)
def test_odd_values_are_brought_inside_their_limits(server: Server, name: str):
    path = server.upload("map.png", SOUND["map.png"])
    status, text = server.call("compare", request(_1={"path": path}, **ODD[name]))
    assert status == 200
    assert "event: complete" in text, text[-300:]
    assert server.alive()


@pytest.mark.parametrize("data", [[], ["depth"], DATA + [1] * 40, "depth", None, {"task": "depth"}, [HUGE]])
def test_calls_of_another_shape_are_refused(server: Server, data: object):
    status, text = server.call("compare", data)
    if status == 200:
        assert_sentence(text)
    else:
        assert 400 <= status < 500
        assert not any(leak in text for leak in LEAKS)
    assert server.alive()


MAP = {"path": "map.png", "meta": {"_type": "gradio.FileData"}}
OURS = {
    "look, of no task": ("look", [["depth"], None, False, 0, False, False], None),
    "look, of half a letter": ("look", ["depth", {"path": "/tmp/\ud800.png"}, False, 0, False, False], None),
    "recall, of no task": ("recall", [["depth"], None, None], None),
    "draw, of no task": ("draw", [*request(_0=["depth"]), "a run"], None),
    "draw, from elsewhere": ("draw", [*request(_1=MAP), {"not": "a name"}], None),
    "grid, of a number": ("draw", [{"not": "a name"}, "models", 5, *request(_1=MAP)], None),
    "grid, of no task": ("draw", ["a run", "models", [1], *request(_0={})], None),
    "pick, beyond the last": ("pick", [], {"index": 10**9}),
    "pick, before the first": ("pick", [], {"index": -1}),
    "pick, by a word": ("pick", [], {"index": "first"}),
    "pick, by nothing": ("pick", [], None),
    "a map that isn't one": ("draw_map", [], {"picture": {}}),
    "a map by nothing": ("draw_map", [], None),
    "reload, from elsewhere": (
        "<lambda>",
        [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, "depth"],
        None,
    ),
}


REFUSED = ("isn't one of those offered", '"error":"', '"detail":"', "cdd-error")


@pytest.mark.parametrize("name", OURS)
def test_the_pages_own_events_answer_forgeries_in_a_sentence(
    server: Server, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
):
    """One that says what is wrong: nothing went wrong on the server, and its log shows no traceback."""
    handler, data, told = OURS[name]
    found = [i for i, fn in server.demo.fns.items() if fn.name == handler and len(fn.inputs) == len(data)]
    for number in found:
        answer = server.event(number, data, told)
        assert any(words in answer for words in REFUSED), answer
        assert BROKEN not in answer
        assert not any(leak in answer for leak in LEAKS)
    assert found
    assert not any(record.exc_info for record in caplog.records)
    assert "Traceback" not in capfd.readouterr().err
    assert server.alive()


@pytest.mark.parametrize("junk", [None, [], ["depth"], {"a": 1}, 5, -0.5, "\ud800", True, MAP], ids=repr)
def test_no_event_of_the_page_answers_with_nothing(server: Server, junk: object, capfd: pytest.CaptureFixture):
    """Whatever comes for all of its inputs, or too few of them."""
    for number, function in server.demo.fns.items():
        if function.fn is None:
            continue
        for data in ([junk] * len(function.inputs), [junk] * (len(function.inputs) - 1)):
            answer = server.event(number, data, junk)
            assert '"error":null' not in answer.replace(" ", ""), (function.name, answer)
            assert not any(leak in answer for leak in LEAKS), (function.name, answer)
    assert "Traceback" not in capfd.readouterr().err
    assert server.alive()


def test_calls_by_name_are_drawn_or_refused_in_a_sentence(server: Server, capfd: pytest.CaptureFixture):
    path = server.upload("map.png", SOUND["map.png"])
    status, text = server.named("compare", image={"path": path}, distilled_steps=1, undistilled_steps=1)
    assert (status, "event: complete" in text) == (200, True)
    for endpoint, data in (("compare", {"best": 1}), ("compare", {}), ("sample", {"steps": {}}), ("nothing", {})):
        status, text = server.named(endpoint, **data)
        if status == 200:
            assert_sentence(text)
        else:
            assert status == 400
            assert json.loads(text)["detail"].endswith(".")
    assert server.call("nothing", [])[0] == 400
    assert "Traceback" not in capfd.readouterr().err


def test_the_load_benchmark_speaks_to_this_demo(server: Server):
    """Or all its visitors would be refused, and it would measure nothing."""

    async def visit() -> str:
        async with httpx.AsyncClient(base_url=server.http.base_url, trust_env=False, timeout=60) as http:
            return await ask(http, 1, 2, 1)

    assert asyncio.run(visit()) == "drawn"


def test_refusals_and_runs_are_logged_without_what_was_sent(server: Server, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "app")
    path = server.upload("secret.png", SOUND["map.png"])
    for changes in ({}, {"_16": "secret"}):
        server.call("compare", request(_1={"path": path}, _2="a secret lake", **changes))
    server.event(server.demo.fns[max(server.demo.fns)]._id, [], None)
    server.call("compare", [])
    server.call("compare", request(_1="secret"))
    for quoted in ("“a secret lake”", "'a secret lake'", '"a secret lake"'):
        refusal(EngineError(f"This model reads no further than {quoted}."))
    told = [record.getMessage() for record in caplog.records if record.name.startswith("app")]
    assert any(line.startswith("run task=depth lanes=distilled pictures=1 steps=1/1 seconds=") for line in told)
    assert sum(line.startswith("refused: ") for line in told) >= 3
    assert sum(line.endswith("This model reads no further than") for line in told) == 3
    assert "secret" not in caplog.text


def test_a_visitor_who_leaves_frees_the_device(server: Server):
    """Whose connection closes, as that of a closed tab does: within a step, nobody has to press Stop."""
    path = server.upload("map.png", SOUND["map.png"])
    long = request(_1={"path": path}, _6=50, _9=["full"], _11=4)
    event = server.http.post("/gradio_api/call/compare", json={"data": long}).json()["event_id"]
    with server.http.stream("GET", f"/gradio_api/call/compare/{event}") as answer:
        assert any("generating" in line for line in answer.iter_lines())
        assert server.http.get("/health").json()["busy"]
    begin, before = time.monotonic(), server.http.get("/health").json()["evaluations"]
    while server.http.get("/health").json()["busy"]:
        assert time.monotonic() - begin < 120
        time.sleep(0.01)
    assert server.http.get("/health").json()["evaluations"] < before + 50, "200 were ordered"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../etc/passwd",
        "%2e%2e%2fetc%2fpasswd",
        "app.py",
        "checkpoints/cards.yaml",
        "/proc/self/environ",
    ],
)
def test_no_file_of_the_server_is_served(server: Server, path: str):
    answer = server.http.get(f"/gradio_api/file={path}")
    assert answer.status_code in (403, 404)
    assert "root:" not in answer.text


@pytest.mark.parametrize("path", ["x/zip", "x/exe", "../x/zip", "x/..%2f..%2fgif", "%00/gif"])
def test_no_run_is_guessed(server: Server, path: str):
    answer = server.http.get(f"/{PLACE}/{path}")
    assert answer.status_code == 404
    assert answer.text == GONE if path in ("x/zip", "x/exe") else len(answer.text) < 200


def test_what_a_run_leaves_is_served_and_told_if_it_takes_too_long(server: Server, monkeypatch: pytest.MonkeyPatch):
    picture = server.files / "map.png"
    Image.fromarray(RAMP8).save(picture)

    def store(content: bytes, name: str) -> str:
        (server.files / name).write_bytes(content)
        return str(server.files / name)

    run = Run((Strip("a", 3, (picture,), (picture,), (0,)),), picture, "Map", ("",), {}, {}, "cdd-seed-3", store)
    places = server.keepsakes.keep(run)
    answer = server.http.get(f"/{places['All steps (ZIP)']}")
    assert (answer.status_code, answer.content[:2]) == (200, b"PK")
    assert 'filename="cdd-seed-3.zip"' in answer.headers["content-disposition"]
    assert server.http.head(f"/{places['All steps (ZIP)']}").status_code == 200
    monkeypatch.setattr("app.keepsakes.PATIENCE", 0.0)
    with server.keepsakes._making:
        answer = server.http.get(f"/{places['GIF']}")
        assert (answer.status_code, answer.text) == (503, BUSY)
        assert server.http.get(f"/{places['All steps (ZIP)']}").status_code == 200, "that is there already"


def test_uploads_have_a_limit(server: Server):
    answer = server.http.post("/gradio_api/upload", files={"files": ("big.png", BytesIO(b"x" * (21 << 20)))})
    assert answer.status_code in (400, 413)
    assert not any(leak in answer.text for leak in LEAKS)


FAR = {"path": "HTTPS://127.0.0.1:1/a.png", "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize("changes", [{"_1": FAR}, {"_2": FAR}, {"_9": [FAR]}, {"_3": {"a": [FAR]}}], ids=str)
def test_nothing_is_fetched_for_a_visitor(server: Server, changes: dict):
    """Wherever the address stands: Gradio would fetch a file of any size for the prompt as well."""
    status, text = server.call("compare", request(**changes))
    assert (status, json.loads(text)["detail"]) == (400, NO_ADDRESS)
    assert "aren't fetched" in server.event(server.fn("look"), ["depth", FAR, False, 0, False, False])
    assert server.alive()


def test_routes_for_other_components_are_closed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    film = {"video": ("a.mp4", b"x" * 1000)}
    assert server.http.post("/gradio_api/process_recording", files=film).status_code == 404
    assert server.http.post("/gradio_api/component_server", json={"component_id": 10**9}).status_code == 404
    assert server.http.get("/monitoring/summary").status_code == 404
    assert server.http.get("/gradio_api/call/compare/unknown").status_code == 404
    event = server.http.post("/gradio_api/call/health", json={"data": []}).json()["event_id"]
    assert "complete" in server.http.get(f"/gradio_api/call/health/{event}").text
    assert server.http.get(f"/gradio_api/call/health/{event}").status_code == 404, "its result was fetched already"
    answer = server.http.post("/gradio_api/call/compare", content=b"[" * (5 << 20))
    assert (answer.status_code, "at most 4 MB" in answer.text) == (413, True)
    answer = server.http.post("/gradio_api/upload", content=(b"x" * 100_000 for _ in range(300)))
    assert answer.status_code in (400, 413)
    assert list(tmp_path.iterdir()) == [], "nothing is left where no sweep looks"
    assert "Traceback" not in capfd.readouterr().err
    assert server.alive()


@pytest.mark.parametrize("name", ["bomb.png", "nowhere.tiff"])
def test_a_pixel_bomb_is_refused_unopened_and_a_map_without_numbers_too(server: Server, name: str):
    content = encoded(Image.new("1", (20_000, 20_000))) if name == "bomb.png" else NOWHERE
    assert len(content) < 1 << 20
    status, text = server.call("compare", request(_1={"path": server.upload(name, content)}))
    assert status == 200
    assert_sentence(text)


def test_a_name_that_climbs_stays_inside(server: Server):
    path = Path(server.upload("../../../evil.png", SOUND["map.png"]))
    assert path.resolve().is_relative_to(server.files.resolve())


def test_the_guide_to_the_api_is_right(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The lines of docs/api.md, against the running demo."""
    (tmp_path / "depth.png").write_bytes(SOUND["map.png"])
    blocks = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8").split("```python\n")[1:]
    code = "\n".join(block.split("```")[0] for block in blocks)
    code = code.replace("http://127.0.0.1:7860", str(server.http.base_url)).replace(
        'handle_file("assets/examples/peaks.png")', f"handle_file({str(tmp_path / 'depth.png')!r})"
    )
    told: list[dict] = []
    found: dict[str, object] = {"print": told.append}
    patient = partial(Client, download_files=str(tmp_path), httpx_kwargs={"timeout": 120})
    monkeypatch.setattr("gradio_client.Client", patient)
    exec(compile(code, "docs/api.md", "exec"), found)
    assert [(facts["lane"], facts["of"]) for facts in told[:-1]] == [("distilled", 4)] * 4 + [("full", 50)] * 50
    assert told[-1]["speed_up"] > 0
    assert found["report"]["seed"] == 0
    assert len(found["results"]) == 1
