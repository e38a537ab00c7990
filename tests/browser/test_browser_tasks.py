"""Editing and enlarging in a real browser, on tiny models of all tasks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import choose_steps, upload, visit
from pictures import PHOTO, encoded

from app.catalog import Catalog
from app.engine import Engine
from app.settings import Settings
from app.ui import build_demo, launch_options

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A demo that can do all tasks; its editors and upscalers are called distilled, and draw as the undistilled do."""
    root = tmp_path_factory.mktemp("checkpoints")
    shutil.copytree(family, root / "tiny")
    for task in ("edit", "upscale"):
        folder = root / "tiny" / task
        shutil.copytree(folder / "undistilled", folder / "distilled")
        card = json.loads((folder / "distilled" / "cdd.json").read_text())
        card |= {"variant": "distilled", "guidance": 1.0, "image_guidance": 1.0}
        (folder / "distilled" / "cdd.json").write_text(json.dumps(card))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("files")))
        settings = Settings(checkpoints=root, family="tiny", device="cpu")
        demo = build_demo(Engine(settings), Catalog(), settings)
        options = launch_options(demo, settings) | {"server_port": None, "prevent_thread_lock": True, "quiet": True}
        _, url, _ = demo.launch(**options)
        yield url.rstrip("/")
        demo.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with visit(browser, address) as opened:
        yield opened


def draw(page: Page) -> None:
    """With few steps; both lanes of the undistilled model have their tiles in the end."""
    choose_steps(page, "distilled-steps", 2)
    choose_steps(page, "undistilled-steps", 3)
    page.click("#go")
    page.wait_for_selector("#verdict")
    for lane, count in (("distilled", 2), ("same", 2), ("full", 3)):
        assert page.locator(f"#strip-{lane} li img").count() == count


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
    draw(page)
    assert "6 evaluations" in page.locator("#card-same").inner_text(), "guided by text and picture"
    viewer = page.locator("#viewer")
    assert viewer.locator(".cdd-left img").get_attribute("alt") == "left: Picture"
    assert viewer.locator(".cdd-right img").get_attribute("src") == page.locator("#card-distilled img").get_attribute(
        "src"
    )
    viewer.locator("[data-split]").fill("80")
    assert "20%" in viewer.locator(".cdd-left").evaluate("e => getComputedStyle(e).clipPath")
    page.screenshot(path=shots / "edited.png", full_page=True)
    page.get_by_role("tab", name="About").click()
    page.wait_for_selector("#about >> text=No safety checker looks at the pictures of the family tiny")


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
    small, bicubic = (page.locator(f"#card-{name} img") for name in ("given", "map"))
    widths = [card.evaluate("e => e.naturalWidth") for card in (small, bicubic)]
    assert widths[1] == 4 * widths[0]
    assert "PSNR" in page.locator("#card-full").inner_text()
    left = page.locator("#viewer .cdd-left img")
    assert left.get_attribute("src") == bicubic.get_attribute("src"), "before and after"
    page.screenshot(path=shots / "enlarged.png", full_page=True)
