"""Editing, enlarging and depth from photos in a real browser, on tiny models of all tasks."""

from __future__ import annotations

import base64
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import WAIT, choose_steps, upload, violations, visit
from pictures import PHOTO, RAMP, encoded
from PIL import Image
from served import served
from test_conditions import tiny

from app.engine import Engine
from app.engine_models import Shelf
from app.settings import Settings

if TYPE_CHECKING:
    import torch
    from playwright.sync_api import Browser, Page, Route

    from cdd_core.loading import Model

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A demo that can do all tasks; its editors and upscalers are called distilled, and draw as the undistilled do.

    It draws in two sizes, and can estimate depth.
    """
    root = tmp_path_factory.mktemp("checkpoints")
    shutil.copytree(family, root / "tiny")
    tiny(root / "tiny" / "estimator")
    for task in ("edit", "upscale"):
        folder = root / "tiny" / task
        shutil.copytree(folder / "undistilled", folder / "distilled")
        card = json.loads((folder / "distilled" / "cdd.json").read_text())
        card |= {"variant": "distilled", "guidance": 1.0, "image_guidance": 1.0}
        (folder / "distilled" / "cdd.json").write_text(json.dumps(card))
    for card in root.rglob("cdd.json"):
        card.write_text(json.dumps(json.loads(card.read_text()) | {"sizes": [32, 64]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("files")))
        settings = Settings(checkpoints=root, family="tiny", device="cpu")
        with served(Engine(settings), settings) as (_, url):
            yield url


def test_the_page_is_there_before_its_models(
    browser: Browser, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shots: Path
):
    """They are loaded once, by whoever comes first, and what is asked for meanwhile is drawn."""
    may, begun, load = threading.Event(), [], Shelf._load

    def late(shelf: Shelf, device: torch.device) -> dict[tuple[str, str], Model]:
        begun.append(device)
        assert may.wait(WAIT / 1000)
        return load(shelf, device)

    monkeypatch.setattr(Shelf, "_load", late)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    settings = Settings(checkpoints=family.parent, family=family.name, device="cpu")
    engine, loading = Engine(settings), "The models are loading"
    try:
        with served(engine, settings) as (_, url), visit(browser, url, told=loading) as page:
            engine.start()
            page.screenshot(path=shots / "loading.png")
            upload(page, "depth16.png", encoded(Image.fromarray(RAMP)))
            page.click("#go")
            page.wait_for_selector(f"#status >> text={loading}")
            assert not engine.ready
            may.set()
            page.wait_for_selector("#verdict")
            page.wait_for_selector("#family >> text=Loaded:")
            assert page.locator("#strip-distilled img").count() == 4
    finally:
        may.set()
    assert len(begun) == 1


@pytest.mark.parametrize("leave", ["stop", "close"])
def test_the_next_run_begins_a_step_later(
    browser: Browser, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: str
):
    """Than the one that was on its way when the server heard of Stop, or that the tab was closed."""
    held, may, count = threading.Event(), threading.Semaphore(0), Shelf._count

    def counted(shelf: Shelf, *_: object) -> None:
        count(shelf)
        if held.is_set():
            assert may.acquire(timeout=WAIT / 1000)

    monkeypatch.setattr(Shelf, "_count", counted)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    settings = Settings(checkpoints=family.parent, family=family.name, device="cpu")
    engine = Engine(settings)
    with served(engine, settings) as (demo, url), visit(browser, url) as mine, visit(browser, url) as others:
        for page in (mine, others):
            upload(page, "depth16.png", encoded(Image.fromarray(RAMP)))
            page.wait_for_selector("#card-map img")
            choose_steps(page, "distilled-steps", 1)
        begun = engine.evaluations
        held.set()
        mine.click("#go")
        may.release(4)  # a step of each of the first lanes, and two of the last, whose third is held
        until(mine, lambda: engine.evaluations >= begun + 5)
        others.click("#go")
        others.wait_for_selector("#status >> text=queue")
        if leave == "close":
            mine.close()
            until(others, lambda: not any(job.alive for jobs in demo._queue.active_jobs for job in jobs or []))
        else:
            with mine.expect_request("**/cancel"):
                mine.click("#stop")
            mine.wait_for_selector("#status >> text=Stopped.")
        may.release(2)  # the server has heard by now: the step on its way, and the first of the others'
        others.wait_for_selector("#strip-distilled li")
        assert engine.evaluations <= begun + 5 + 1 + 1
        held.clear()
        may.release(100)
        others.click("#stop")
        others.wait_for_selector("#status >> text=Stopped.")


def until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait for something on the server's side, while the page goes on."""
    deadline = time.monotonic() + WAIT / 1000
    while not holds():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


@pytest.fixture
def page(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, loaded. Parameter: width, theme."""
    with visit(browser, address, *getattr(request, "param", ())) as opened:
        yield opened


def draw(page: Page) -> dict[str, object]:
    """With few steps; both lanes of the undistilled model have their tiles in the end. Returns the run's settings."""
    choose_steps(page, "distilled-steps", 2)
    choose_steps(page, "undistilled-steps", 3)
    page.click("#go")
    page.wait_for_selector("#verdict")
    for lane, count in (("distilled", 2), ("same", 2), ("full", 3)):
        assert page.locator(f"#strip-{lane} li img").count() == count
    return json.loads(page.locator("#verdict").get_attribute("data-settings"))


def test_a_photo_is_edited(page: Page, shots: Path):
    page.locator("#task label", has_text="Edit a picture").click()
    page.wait_for_selector("#status >> text=Upload a picture, say what to change")
    assert page.locator("#invert, #control, #sketch").evaluate_all("all => all.every(e => !e.offsetParent)")
    page.click("#go")
    page.wait_for_selector("#depth >> text=Upload a picture first.")
    upload(page, "photo.png", encoded(PHOTO))
    page.wait_for_selector("#card-map img")
    page.click("#go")
    page.wait_for_selector("#prompt >> text=Say what to change")
    page.locator("#ideas button", has_text="make it sunset").click()
    page.locator("#preset label", has_text="closer").click()
    page.locator("#advanced > button").click()
    closer = page.locator("#image-guidance :is(input, textarea)")
    page.wait_for_function("e => e.value == '2'", arg=closer.element_handle())
    closer.fill("1.25")
    assert draw(page)["image_guidance"] == 1.25
    assert "6 evaluations" in page.locator("#card-same").inner_text(), "guided by text and picture"
    viewer = page.locator("#viewer")
    assert viewer.locator(".cdd-left img").get_attribute("alt") == "left: Picture"
    assert viewer.locator(".cdd-right img").get_attribute("src") == page.locator("#card-distilled img").get_attribute(
        "src"
    )
    viewer.locator("[data-split]").fill("80")
    assert "20%" in viewer.locator(".cdd-left").evaluate("e => getComputedStyle(e).clipPath")
    page.screenshot(path=shots / "edited.png", full_page=True)
    photo = page.locator("#depth img").get_attribute("src")
    page.locator("#task label", has_text="Depth to image").click()
    page.locator("#depth img").wait_for(state="detached")
    page.locator("#task label", has_text="Edit a picture").click()
    page.locator("#depth img").wait_for()
    assert page.locator("#depth img").get_attribute("src") == photo
    page.wait_for_selector("#card-map img")
    page.get_by_role("tab", name="About").click()
    page.wait_for_selector("#about >> text=No safety checker looks at the pictures of the family tiny")


def test_what_is_missing_stays_told(page: Page):
    """Though the look at the new task's picture, which isn't there, comes after the click."""
    held: list[Route] = []
    page.route("**/queue/join*", lambda route: route.continue_() if held else held.append(route))
    with page.expect_request("**/queue/join*"):
        page.locator("#task label", has_text="Edit a picture").click()
    page.wait_for_selector("#status >> text=Upload a picture, say what to change")
    page.click("#go")
    page.wait_for_timeout(200)
    held[0].continue_()
    page.wait_for_selector("#depth >> text=Upload a picture first.")
    page.wait_for_timeout(500)
    assert page.locator("#depth >> text=Upload a picture first.").is_visible()


def test_a_small_picture_is_enlarged(page: Page, shots: Path):
    page.locator("#task label", has_text="Enlarge a picture").click()
    page.wait_for_selector("#status >> text=Upload a small picture")
    choose_steps(page, "degradation", 0.3)
    page.wait_for_selector("#card-map >> text=Your picture, plainly enlarged")
    upload(page, "photo.png", encoded(PHOTO))
    page.wait_for_selector("#card-map img")
    before = page.locator("#card-map img").get_attribute("src")
    choose_steps(page, "degradation", 0.8)
    page.wait_for_function(
        "before => document.querySelector('#card-map img')?.getAttribute('src') != before", arg=before
    )
    draw(page)
    small, bicubic = page.locator("#given img"), page.locator("#card-map .cdd-picture img")
    widths = [card.evaluate("e => e.naturalWidth") for card in (small, bicubic)]
    assert widths[1] == 4 * widths[0]
    assert all("PSNR" in page.locator(f"#card-{name}").inner_text() for name in ("map", "full"))
    assert page.locator("#viewer option", has_text="As it really is").count() == 2
    left = page.locator("#viewer .cdd-left img")
    assert left.get_attribute("src") == bicubic.get_attribute("src"), "before and after"
    page.screenshot(path=shots / "enlarged.png", full_page=True)


@pytest.mark.parametrize("page", [(1280, "dark"), (390, "light")], indirect=True)
@pytest.mark.parametrize(
    ("name", "asks", "prompt"),
    [("Edit a picture", "say what to change", "make it night"), ("Enlarge a picture", "Upload a small picture", "")],
)
def test_axe_finds_no_serious_violation_in_other_tasks(page: Page, shots: Path, name: str, asks: str, prompt: str):
    width = page.viewport_size["width"]
    page.locator("#task label", has_text=name).click()
    page.wait_for_selector(f"#status >> text={asks}")
    found = violations(page, f"{name}, empty")
    upload(page, "photo.png", encoded(PHOTO))
    page.wait_for_selector("#card-map img")
    if prompt:
        page.locator("#prompt textarea").fill(prompt)
    draw(page)
    found += violations(page, f"{name}, done")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    page.screenshot(path=shots / f"{name.split()[0].lower()}-{width}.png", full_page=True)
    assert found == []


COPY = """async (content) => {
    const blob = await (await fetch(`data:image/png;base64,${content}`)).blob();
    await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
}"""


def shown_map(page: Page, before: str = "") -> str:
    """Address of the depth map that is shown, once it is another than before."""
    page.wait_for_function(
        "before => ![undefined, before].includes(document.querySelector('#card-map img')?.getAttribute('src'))",
        arg=before,
    )
    return page.locator("#card-map img").get_attribute("src")


def test_photos_come_by_paste_and_camera_and_their_depth_is_estimated(page: Page, address: str, shots: Path):
    page.context.grant_permissions(["clipboard-read", "clipboard-write", "camera"], origin=address)
    page.wait_for_selector("#depth button[aria-label='Capture from camera']")  # until then buttons are drawn anew
    page.evaluate(COPY, base64.b64encode(encoded(PHOTO)).decode())
    page.locator("#depth button[aria-label='Paste from clipboard']").click()
    plain = shown_map(page)
    page.locator("#estimate input").check()
    estimated = shown_map(page, plain)
    page.locator("#size input").click()
    page.get_by_role("option", name="64 px").click()
    told = draw(page)
    assert (told["estimate"], told["size"]) == (True, 64)
    assert page.locator("#card-full img").evaluate("e => e.naturalWidth") == 64
    page.locator("#depth button[aria-label='Capture from camera']").click()
    page.locator("#depth button", has_text="Access Webcam").click()
    page.wait_for_function("document.querySelector('#depth video')?.currentTime > 0")
    page.locator("#depth button[aria-label='capture photo']").click()
    assert shown_map(page, estimated)
    page.screenshot(path=shots / "webcam.png")
