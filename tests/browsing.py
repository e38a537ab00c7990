"""The demo in a process of its own, and a real browser to drive it with; fixtures for all tests marked ``browser``."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import ProxyHandler, build_opener

import pytest
from gradio_client import Client
from pictures import RAMP, encoded
from PIL import Image

from benchmarks.server import CHROMIUM_FLAGS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

MISSING = "no playwright: pip install -r requirements-dev.txt"
MISSING_AXE = "no axe: pip install -r requirements-dev.txt"
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # it shows a test picture
ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "checkpoints" / "pocket" / "depth" / "distilled" / "cdd.json"
WAIT = 120_000  # milliseconds; a machine busy with other things is no failure
READOUT = r"depth error 0\.\d+ \(less is better\)\s+" if SHIPPED.is_file() else ""  # by the shipped probe
LONGEST_RUN = 250  # steps
LONG_RUN = 50 if SHIPPED.is_file() else LONGEST_RUN  # the tiny models would be done before anybody pressed Stop

# What the browser itself says of a validator's refusal, and of a test that cuts the line.
HARMLESS = r"status of 422|ERR_INTERNET_DISCONNECTED"


@pytest.fixture(scope="session")
def url(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo with the shipped weights, or with tiny random ones where there are none yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    environ = os.environ | {"GRADIO_TEMP_DIR": str(folder / "files"), "CDD_MAX_STEPS": str(LONGEST_RUN)}
    if not SHIPPED.is_file():
        environ |= {"CDD_CHECKPOINTS": str(family.parent), "CDD_FAMILY": family.name}
    command = [sys.executable, "app.py", "--port", str(port), "--device", "cpu"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + WAIT / 1000
        while not _answers(port):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the server doesn't come up"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        assert server.poll() is None, "the server died"
        assert "Traceback" not in (folder / "log").read_text()
    finally:
        server.terminate()
        server.wait(30)


def _answers(port: int) -> bool:
    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason=MISSING)
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=chromium, args=[*CHROMIUM_FLAGS, *CAMERA])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots stay, for people to look at: ``pytest --basetemp out/tests`` chooses the place."""
    return tmp_path_factory.mktemp("screenshots")


@pytest.fixture
def page(browser: Browser, url: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, loaded. Parameter: width, theme."""
    width, theme = getattr(request, "param", (1280, "light"))
    with visit(browser, url, width, theme) as opened:
        yield opened


@contextmanager
def visit(
    browser: Browser, url: str, width: int = 1280, theme: str = "light", harmless: str = HARMLESS, told: str = "Loaded:"
) -> Iterator[Page]:
    """The page, as soon as it tells this of its models; it may not ask other machines for anything, nor fail on its
    own, nor complain."""
    # One context for all, so that scripts are read once; what the visitor before left behind goes.
    context = browser.contexts[0] if browser.contexts else browser.new_context()
    opened = context.new_page()
    opened.set_viewport_size({"width": width, "height": 900})
    opened.add_init_script("if (!sessionStorage.seen) { localStorage.clear(); sessionStorage.seen = true; }")
    opened.set_default_timeout(WAIT)
    errors: list[str] = []
    strangers: list[str] = []

    def hear(said: ConsoleMessage) -> None:
        # An upload that a busy machine hears of late has no progress to show: Gradio's own script asks once.
        late = "upload_progress" in said.location.get("url", "")
        if said.type == "error" and not late and not re.search(harmless, said.text):
            errors.append(said.text)

    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", hear)
    opened.on("request", lambda sent: strangers.append(sent.url) if _is_foreign(sent.url) else None)
    opened.goto(f"{url}/?__theme={theme}", wait_until="domcontentloaded")
    opened.wait_for_selector(f"#family >> text={told}")
    settle(opened)  # tasks are offered by now, and have moved the buttons: a click could miss one that moves
    try:
        yield opened
    finally:
        context.set_offline(False)
        opened.close()
    assert errors == []
    assert strangers == []


def _is_foreign(address: str) -> bool:
    return not re.match(r"(http://127\.0\.0\.1[:/]|data:|blob:)", address)


def connect(url: str, downloads: Path) -> Client:
    """A client that waits for a busy machine, and keeps what it gets in a folder."""
    return Client(url, verbose=False, download_files=str(downloads), httpx_kwargs={"timeout": WAIT / 1000})


def upload(page: Page, name: str, content: bytes) -> None:
    """Choose a file, in place of the one before."""
    clear = page.locator("#depth button[aria-label='Clear']")
    if clear.count():
        clear.click()
    page.locator("#depth input[type=file]").set_input_files({"name": name, "mimeType": "", "buffer": content})
    page.wait_for_selector("#depth img", state="attached")


def choose_steps(page: Page, slider: str, count: int) -> None:
    number = page.locator(f"#{slider} input[type=number]")
    number.fill(str(count))
    number.press("Tab")


def upload_ramp(page: Page) -> None:
    upload(page, "depth16.png", encoded(Image.fromarray(RAMP)))
    page.wait_for_selector("#card-map img")


def settle(page: Page) -> None:
    """Wait for all movements that have an end."""
    page.evaluate("""() => new Promise(requestAnimationFrame).then(() => Promise.allSettled(
        document.getAnimations().filter((a) => a.effect.getTiming().iterations != Infinity).map((a) => a.finished)
    ))""")


def violations(page: Page, where: str) -> list[tuple[str, str, list[str]]]:
    """What axe-core finds serious or critical, by WCAG: where, which rule, and some of the elements."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=MISSING_AXE)
    settle(page)  # what fades in has less contrast on its way
    grave = [v for v in axe.Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
    return [(where, v["id"], [node["html"][:150] for node in v["nodes"]][:4]) for v in grave]


def fetched(address: str) -> Image.Image:
    with build_opener(ProxyHandler({})).open(address) as answer:
        return Image.open(BytesIO(answer.read()))
