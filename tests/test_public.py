"""The demo among strangers, without its models: who is who, who may wait, which files stay, what a storm must show."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.data_classes import PredictBodyInternal
from gradio.queueing import Queue
from gradio.routes import App
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from test_app import CannedEngine, values

from app.catalog import Catalog, Example
from app.gate import Gate
from app.settings import Settings
from app.sweep import Room, repeat, sweep
from app.ui import build_demo, renew
from app.ui_files import Files
from app.ui_public import FULL, TOO_MANY, forget_sessions, visitor
from benchmarks.load import failures

# Who asks


def asked(*forwarded: str, host: str = "10.0.0.1") -> Request:
    headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]
    return Request({"type": "http", "headers": headers, "client": (host, 1)})


@pytest.mark.parametrize(
    ("forwarded", "proxies", "who"),
    [
        (("1.1.1.1",), 0, "10.0.0.1"),
        ((), 1, "10.0.0.1"),
        (("1.1.1.1",), 1, "1.1.1.1"),
        (("forged, 1.1.1.1",), 1, "1.1.1.1"),
        (("forged", "1.1.1.1"), 1, "1.1.1.1"),
        (("forged, 1.1.1.1, 10.0.0.9",), 2, "1.1.1.1"),
        (("1.1.1.1",), 2, "10.0.0.1"),
    ],
)
def test_a_visitor_is_whom_the_trusted_proxies_name(forwarded: tuple[str, ...], proxies: int, who: str):
    """What a client wrote into the header itself comes before that, and changes nothing."""
    assert visitor(asked(*forwarded), proxies) == who


# Who may wait


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gr.Blocks:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    return build_demo(CannedEngine(), Catalog(), Settings(queue_size=4, per_visitor=2))


def test_a_run_ends_before_something_else_takes_its_place(demo: gr.Blocks):
    """What one event sets off, Gradio does in the order it was wired in, waiting for each.

    But for examples, which rest while a run goes on.
    """
    resting = next(block._id for block in demo.blocks.values() if block.elem_id == "examples")
    ends: dict[tuple[int, str], int] = {}
    for number, function in demo.fns.items():
        if function.cancels:
            ends.update({target: min(number, ends.get(target, number)) for target in function.targets})

    def first(number: int) -> int:
        """What it follows, or itself."""
        before = demo.fns[number].trigger_after
        return number if before is None else first(before)

    writers = [
        (first(number), target)
        for number, function in demo.fns.items()
        if any(output.elem_id == "stage" for output in function.outputs)
        for target in demo.fns[first(number)].targets
        if target in ends and target[0] != resting
    ]
    assert len(writers) >= 9, "picture, task, history, drawing and more"
    assert all(ends[target] <= number for number, target in writers)


def test_a_look_ends_when_a_run_begins_and_the_run_waits_for_nothing(demo: gr.Blocks):
    """A look that comes late would write over what is drawn; and whatever listens to Generate itself is waited for."""
    names = {number: function.name for number, function in demo.fns.items()}
    starts = {
        block._id: block.elem_id for block in demo.blocks.values() if block.elem_id in ("go", "prompt", "examples")
    }
    ended: dict[str, set[int]] = {}
    for function in demo.fns.values():
        for place, event in function.targets:
            if starts.get(place) and event in ("click", "submit"):
                ended.setdefault(starts[place], set()).update(function.cancels)
                assert function.name not in ("draw", "draw_again")
    assert ended.keys() == {"go", "prompt", "examples"}
    looks = {number for number, name in names.items() if name in ("look", "look_again")}
    assert len(looks) == 5
    assert all(looks <= cancelled for cancelled in ended.values())
    # One that had to wait for another sets its own event off again: that mustn't be one that ends a run.
    assert all(demo.fns[number].trigger_after is not None for number in looks)


def test_each_queue_has_room_for_some_and_no_visitor_takes_all_of_it(demo: gr.Blocks):
    """And the page's introduction waits in none: who comes when all are full is still told where they are."""
    fns = {function.name: function for function in demo.fns.values()}

    async def told(name: str, host: str) -> str:
        look = ["depth", None, False, 0, False, False]
        given = {"compare": [*values().values(), "", False], "look": look, "introduce": []}[name]
        body = PredictBodyInternal(fn_index=fns[name]._id, data=given, session_hash=host)
        welcome, words, _ = await demo._queue.push(body, asked(host=host), None)
        return "" if welcome else words

    for name in ("compare", "look"):
        waiting = [asyncio.run(told(name, host)) for host in "aaabbcd"]
        assert waiting == ["", "", TOO_MANY, "", "", FULL, FULL]
    assert [asyncio.run(told("introduce", "a")) for _ in range(9)] == [""] * 9


def test_sessions_are_forgotten_that_have_nothing_to_wait_for():
    queue = Queue(False, 1, 1, None, gr.Blocks())
    sessions = {"idle": set(), "queued": {"a"}, "unread": {"b"}, "lost": {"c"}}
    queue.pending_event_ids_session |= sessions
    queue.event_ids_to_events["a"] = queue.pending_messages_per_session["unread"] = object()
    forget_sessions(queue, most=4)
    assert queue.pending_event_ids_session == sessions
    forget_sessions(queue, most=3)
    assert list(queue.pending_event_ids_session) == ["queued", "unread"]


def test_no_visitor_takes_more_by_coming_all_at_once(demo: gr.Blocks):
    """Who is let in, and is looked at before being queued, counts already."""
    draw = next(i for i, function in demo.fns.items() if function.name == "draw" and function.validator)
    given = ["depth", {"path": "map.png"}, *list(values().values())[2:], "", False, "name of the run"]

    async def crowd(hosts: str) -> list[str]:
        async def told(number: int, host: str) -> str:
            asking = Request({**asked(host=host).scope, "path": "/gradio_api/queue/join", "query_string": b""})
            body = PredictBodyInternal(fn_index=draw, data=given, session_hash=f"{host}{number}", request=asking)
            welcome, words, _ = await demo._queue.push(body, asking, None)
            return "" if welcome else words

        demo.app = App.create_app(demo)
        return await asyncio.gather(*(told(number, host) for number, host in enumerate(hosts)))

    found = asyncio.run(crowd("aaaaabbcd"))
    assert [found.count(words) for words in ("", TOO_MANY, FULL)] == [4, 3, 2]


# What comes through the door


def arriving(
    path: str, body: bytes, told: bool, kind: str = "POST", room: Callable[[int], bool] = lambda _: True
) -> tuple[int, int]:
    """The answer's status, and how much of the request came through."""

    async def behind(scope: object, receive: Callable, send: Callable) -> None:
        came, more = 0, True
        while more:
            message = await receive()
            came, more = came + len(message["body"]), message["more_body"]
        await JSONResponse(came)(scope, receive, send)

    async def visit() -> tuple[int, int]:
        pieces = [body[k : k + 100_000] for k in range(0, len(body), 100_000)] or [b""]
        queue = [{"type": "http.request", "body": b, "more_body": i + 1 < len(pieces)} for i, b in enumerate(pieces)]
        headers = [(b"content-length", str(len(body)).encode())] if told else []
        scope = {"type": "http", "method": kind, "path": path, "headers": headers}
        answer: list[dict] = []

        async def receive() -> dict:
            return queue.pop(0)

        async def send(message: dict) -> None:
            answer.append(message)

        try:
            await Gate(behind, 10 << 20, {"known"}.__contains__, room)(scope, receive, send)
        except HTTPException as error:
            return error.status_code, len(pieces) - len(queue)
        return answer[0]["status"], json.loads(answer[1]["body"]) if answer[0]["status"] == 200 else 0

    return asyncio.run(visit())


@pytest.mark.parametrize("told", [True, False])
def test_no_request_is_endless(told: bool):
    """Whether or not it says beforehand how long it will be."""
    call, upload = "/gradio_api/queue/join", "/gradio_api/upload"
    assert arriving(call, b"x" * 1_000_000, told) == (200, 1_000_000)
    assert arriving(upload, b"x" * (10 << 20), told) == (200, 10 << 20)
    assert arriving("/gradio_api/mcp/", b"x" * (13 << 20), told) == (200, 13 << 20)
    for path, size in ((call, 5 << 20), (upload, 12 << 20), ("/gradio_api/mcp/", 15 << 20), ("/", 5 << 20)):
        status, came = arriving(path, b"x" * size, told)
        assert status == 413
        assert came * 100_000 <= size - 100_000 if not told else came == 0


@pytest.mark.parametrize("told", [True, False])
def test_between_two_sweeps_no_more_comes_in_than_there_is_room_for(told: bool):
    room, upload = Room(2 << 20), ("/gradio_api/upload", b"x" * (3 << 20), told, "POST")
    assert arriving(*upload, room.take) == (200, 3 << 20)
    assert arriving(*upload, room.take)[0] == 507
    assert arriving("/gradio_api/queue/join", b"x", told, "POST", room.take)[0] == 200, "calls bring no files"
    drawn = ("/gradio_api/queue/join", b"x" * 1_500_000, told, "POST")
    assert arriving(*drawn, room.take)[0] == 507, "but for a map from the canvas"
    room.swept(1 << 20)
    assert arriving(*drawn, room.take)[0] == 200
    room.swept(1 << 20)
    assert arriving(*upload, room.take)[0] == 200


def test_what_nobody_has_use_for_is_not_there():
    for path in ("process_recording", "component_server", "component_server/", "vibe-edit/", "proxy=http://a/b"):
        assert arriving(f"/gradio_api/{path}", b"", True)[0] == 404, path
    for path in ("/monitoring", "/monitoring/summary", "/gradio_api/deep_link"):
        assert arriving(path, b"", True, "GET")[0] == 404, path
    assert arriving("/gradio_api/call/compare/known", b"", True, "GET")[0] == 200
    assert arriving("/gradio_api/call/compare/unknown", b"", True, "GET")[0] == 404
    assert arriving("/gradio_api/call/v2/compare/unknown", b"", True, "GET")[0] == 404
    assert arriving("/gradio_api/call/v2/compare", b"", True)[0] == 200


# Which files stay


def written(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    time.sleep(0.02)  # or they are of one age
    return path


def test_the_oldest_files_make_room(tmp_path: Path):
    old, middle, new = files = [written(tmp_path / name / "a.png", 100) for name in ("c", "a", "b")]
    os.utime(old)
    assert sweep(tmp_path, 60, 250) == 300
    assert all(path.exists() for path in files), "they may be on their way still"
    assert sweep(tmp_path, 60, 250, 0) == 200
    assert (old.exists(), middle.exists(), new.exists()) == (True, False, True), "touched, it is young again"
    assert sweep(tmp_path, 60, 0, 0) == 0
    assert not list(tmp_path.rglob("*.png"))


def test_old_files_go_and_then_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever left them, and however old their content says it is."""
    kept, old = written(tmp_path / "kept" / "a.png", 10), written(tmp_path / "old" / "a.png", 10)
    os.utime(kept, (1, 1))
    time.sleep(0.1)
    os.utime(kept, (1, 1))
    with monkeypatch.context() as clock:  # stands still, for a busy machine would make the young one old
        clock.setattr("app.sweep.time", SimpleNamespace(time=lambda: kept.stat().st_ctime + 0.05))
        sweep(tmp_path, 0.09, 1000)
    assert (kept.exists(), old.exists()) == (True, False)
    time.sleep(0.1)
    os.utime(kept)
    sweep(tmp_path, 60, 1000, young=0.09)
    assert (kept.exists(), old.parent.exists(), tmp_path.exists()) == (True, False, True)


def test_what_lies_outside_is_left_alone(tmp_path: Path):
    outside, inside = written(tmp_path / "outside" / "a.png", 10), tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside.parent)
    (inside / "b.png").symlink_to(outside)
    sweep(inside, 60, 0, 0)
    assert outside.exists()


def test_sweeps_go_on_while_files_come_and_go_and_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    files, times, enough, space, young = Files(gr.HTML()), [], [], 20_000, [60]

    def work() -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            raise OSError("the disk is gone for a moment")
        if enough:
            time.sleep(3600)  # a daemon: it ends with the tests
        sweep(tmp_path / "gradio", 60, space, young[0])

    repeat(work, 0.001)
    with ThreadPoolExecutor(4) as several:
        paths = list(several.map(lambda k: Path(files.store(b"%d" % k + b"x" * 1000, "a.png")), range(400)))
    young[0] = 0  # none is on its way any longer
    deadline = time.monotonic() + 120
    while (len(times) < 3 or sum(path.exists() for path in paths) * 1000 > space) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 0 < sum(path.exists() for path in paths) * 1000 <= space
    assert len(times) > 2
    enough.append(True)


def test_a_file_is_written_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    files = Files(gr.HTML())
    path = Path(files.store(b"content", "a.png"))
    before = path.stat()
    time.sleep(0.02)
    assert files.store(b"content", "a.png") == str(path)
    after = path.stat()
    assert (after.st_ino, path.read_bytes()) == (before.st_ino, b"content")
    assert after.st_ctime > before.st_ctime, "asked for again, it is young again"
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_pictures_of_the_page_itself_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    Image.new("L", (16, 16)).save(tmp_path / "a.png")
    catalog = Catalog(examples=(Example(tmp_path / "a.png", "A", "p", "s", "l"),))
    demo = build_demo(CannedEngine(), catalog, Settings())
    demo.upload_file_set.add("somewhere")
    (picture,) = (tmp_path / "gradio").rglob("*.png")
    sweep(tmp_path / "gradio", 60, 0, 0)
    assert not picture.exists()
    renew(demo, catalog)
    assert picture.exists()
    assert not demo.upload_file_set, "Gradio's own list of files would grow for ever"
    assert demo.delete_cache is None


# What a storm must show


FINE = {"warm_up": {"drawn": 20}, "outcomes": {"drawn": 400, "busy": 100}, "memory_ratio": 1.01}


@pytest.mark.parametrize(
    "changes",
    [
        {"warm_up": {"drawn": 19, "busy": 1}},
        {"warm_up": {"refused: brings 18 of 19": 20}},
        {"outcomes": {"drawn": 400, "lost: ReadTimeout": 1}},
        {"outcomes": {"drawn": 400, "mixed up": 1}},
        {"outcomes": {"busy": 400}},
        {"memory_ratio": 1.06},
    ],
)
def test_a_storm_fails_by_what_should_not_happen(changes: dict):
    assert failures(FINE) == []
    assert failures(FINE | changes)
