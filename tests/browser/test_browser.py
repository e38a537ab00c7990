"""The demo as a visitor meets it: ``app.py`` in a process of its own, driven in a real browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from browsing import LONG_RUN, READOUT, choose_steps, connect, fetched, settle, upload, upload_ramp
from pictures import RAMP, RAMP8, encoded, frames
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

BAD = {
    "text.png": (b"not a picture at all", "not a picture"),
    "cut.png": (encoded(Image.fromarray(RAMP))[:200], "damaged or was cut off"),
    "one.png": (encoded(Image.new("L", (1, 1))), "only 1 x 1 pixels"),
    "black.png": (encoded(Image.new("L", (64, 64))), "one flat grey"),
    "moving.gif": (frames("GIF", 3), "animated"),
}


def test_a_run_shows_every_step_and_three_results(page: Page, url: str, shots: Path):
    page.screenshot(path=shots / "empty.png")
    upload_ramp(page)
    seen = fetched(f"{url}/{page.locator('#card-map img').get_attribute('src')}")
    assert len(np.unique(np.asarray(seen))) > 20, "16 bits were not cut to a few levels"
    page.locator("#prompt textarea").fill("snowy mountains at sunset, by a lake")
    choose_steps(page, "undistilled-steps", 6)
    page.click("#go")
    page.wait_for_selector("#strip-distilled li:nth-child(4) img")
    page.wait_for_selector("#verdict")
    settle(page)
    page.screenshot(path=shots / "done.png", full_page=True)
    for lane, count in (("distilled", 4), ("same", 4), ("full", 6)):
        alts = page.locator(f"#strip-{lane} img").evaluate_all("all => all.map(e => e.naturalWidth && e.alt)")
        assert [alt.split(", t =")[0] for alt in alts] == [
            f"predicted clean image at step {i + 1} of {count}" for i in range(count)
        ]
        card = page.locator(f"#card-{lane}")
        assert re.search(rf"\d s\s+\d+ ms a step, {count} evaluations\s+{READOUT}Save PNG", card.inner_text())
        last = page.locator(f"#strip-{lane} img").last.get_attribute("src")
        assert card.locator("img").get_attribute("src") == last
    assert "Done: 14 steps" in page.locator("#status").inner_text()
    seed = page.locator("#seed input").input_value()
    with page.expect_download() as download:
        page.locator("#card-distilled a").click()
    assert download.value.suggested_filename == f"distilled-4-steps-seed-{seed}-step-04.png"
    with Image.open(download.value.path()) as picture:
        assert picture.format == "PNG"
        assert f'"seed": {seed}' in picture.info["parameters"]
        assert '"prompt": "snowy mountains at sunset, by a lake"' in picture.info["parameters"]


def test_stop_stops(page: Page, url: str, shots: Path, tmp_path: Path):
    health = connect(url, tmp_path)
    upload_ramp(page)
    choose_steps(page, "undistilled-steps", LONG_RUN)
    page.click("#go")
    page.wait_for_selector("#strip-full li:nth-child(3) img")
    page.focus("#go")
    page.keyboard.press("Enter")  # it rests: nothing else begins
    assert page.locator("#go").get_attribute("aria-disabled") == "true"
    with page.expect_response("**/cancel"):  # answered when the run has been told
        page.click("#stop")
    counted = health.predict(api_name="/health")["evaluations"]
    page.wait_for_selector("#status >> text=Stopped.")
    after = health.predict(api_name="/health")
    while after["busy"]:  # until the step that was being drawn is done
        page.wait_for_timeout(100)
        after = health.predict(api_name="/health")
        assert after["evaluations"] - counted <= 2
    page.wait_for_timeout(500)  # several steps long
    after = health.predict(api_name="/health")
    assert after["evaluations"] - counted <= 2
    assert not after["busy"]
    assert page.locator("#strip-full li").count() == LONG_RUN
    assert page.locator("#strip-full li img").count() < LONG_RUN
    assert "Stopped." in page.locator("#status").inner_text(), "nothing has written over it"
    page.screenshot(path=shots / "stopped.png")
    choose_steps(page, "undistilled-steps", 2)
    page.click("#go")
    page.wait_for_selector("#verdict")
    page.click("#stop")
    settle(page)
    assert "Done:" in page.locator("#status").inner_text(), "there was nothing to stop"


def test_stop_is_heard_before_the_run_is_answered(page: Page):
    upload_ramp(page)
    page.evaluate("document.querySelector('#go').click(); document.querySelector('#stop').click()")
    page.wait_for_selector("#status >> text=Stopped.")
    page.wait_for_timeout(500)
    assert "Stopped." in page.locator("#status").inner_text()
    assert page.locator("#strip-distilled li[data-t]").count() == 0
    page.evaluate("document.querySelector('#examples button').click(); document.querySelector('#stop').click()")
    page.wait_for_timeout(2000)
    assert page.locator("#strip-distilled li[data-t] img").count() == 0, "it isn't drawn for nobody"
    page.get_by_role("tab", name="Grid").click()
    page.evaluate("document.querySelector('#grid-go').click(); document.querySelector('#grid-stop').click()")
    page.wait_for_selector("#grid-status >> text=Stopped.")
    page.wait_for_timeout(500)
    assert "Stopped." in page.locator("#grid-status").inner_text()
    assert page.locator("#grid-sheet img").count() == 0


def test_bad_files_are_told_in_a_sentence(page: Page, url: str, shots: Path):
    for name, (content, words) in BAD.items():
        upload(page, name, content)
        page.wait_for_selector(f"#status [role=alert] >> text={words}")
        page.wait_for_selector(f".toast-body >> text={words}")
        page.screenshot(path=shots / f"bad-{name}.png")
        # Through the page itself: a message that is about to leave is gone before a mouse gets there.
        page.evaluate("document.querySelectorAll('.toast-close').forEach((button) => button.click())")
        page.wait_for_selector(".toast-body", state="detached")
        page.click("#go")
        page.wait_for_selector(f".toast-body >> text={words}")
        sentence = page.locator("#status").inner_text().strip()
        assert words in sentence
        assert sentence.endswith(".")
        assert page.locator("#stage img").count() == 0
    upload(page, "cmyk.jpg", encoded(Image.fromarray(RAMP8).convert("CMYK"), "JPEG"))
    page.wait_for_selector("#status >> text=Ready")
    assert page.locator("#card-map img").count() == 1
    assert connect(url, shots).predict(api_name="/health")["ready"]


def test_without_a_map_the_page_asks_for_one(page: Page):
    page.click("#go")
    page.wait_for_selector("#depth >> text=Upload a depth map first")
    assert page.locator("#stage img").count() == 0


# Notes what the stage shows, whenever that changes: results that were drawn before, or steps.
WATCH = """() => {
    window.shown = [];
    new MutationObserver(() => {
        const stage = document.querySelector("#stage");
        const before = stage.innerText.includes("stored") ? "stored" : "";
        const now = stage.querySelector(".cdd-strip img") ? "steps" : before;
        if (now && now != window.shown.at(-1)) window.shown.push(now);
    }).observe(document.querySelector("#stage"), {childList: true, subtree: true});
}"""


def test_an_example_shows_its_results_at_once_and_is_drawn_on_the_same_click(page: Page):
    choose_steps(page, "undistilled-steps", LONG_RUN)
    page.locator("#invert input").check()
    page.evaluate(WATCH)
    page.locator("#examples button").nth(2).click()
    page.wait_for_selector("#strip-full li:nth-child(3) img")
    assert page.evaluate("window.shown") == ["stored", "steps"]
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url) if "/queue/join" in sent.url else None)
    page.locator("#prompt textarea").press("Enter")  # it rests like Generate
    page.wait_for_timeout(300)
    assert asked == []
    assert not page.locator("#invert input").is_checked(), "its map is shown, and drawn, as it is"
    prompt = page.locator("#prompt textarea").input_value()
    page.click("#stop")
    page.wait_for_selector("#status >> text=Stopped.")
    choose_steps(page, "undistilled-steps", 2)
    page.wait_for_timeout(500)
    page.locator("#examples button").first.click()
    page.wait_for_selector("#verdict")
    told = json.loads(page.locator("#verdict").get_attribute("data-settings"))
    assert told["prompt"] == page.locator("#prompt textarea").input_value() != prompt
    assert told["undistilled_steps"] == 2
    assert page.locator("#depth img").count() == 1
    before = page.locator("#card-map img").get_attribute("src")
    page.locator("#invert input").check()
    page.wait_for_function(
        "before => document.querySelector('#card-map img').getAttribute('src') != before", arg=before
    )


@pytest.mark.parametrize("page", [(390, "light"), (390, "dark"), (768, "light"), (1280, "dark")], indirect=True)
def test_the_page_fits_the_screen(page: Page, shots: Path):
    choose_steps(page, "distilled-steps", 8)
    choose_steps(page, "undistilled-steps", 14)
    page.locator("#examples button").first.click()
    page.wait_for_selector("#strip-full li:nth-child(2) img")
    width = page.viewport_size["width"]
    results, inputs = (page.locator(f"#{name}").bounding_box()["y"] for name in ("results", "inputs"))
    assert results == inputs if width >= 900 else results < inputs, "the result stands first"
    assert page.locator("#stop").bounding_box()["y"] < 900, "and Stop is at hand"
    bottom = "document.getElementById('card-distilled').getBoundingClientRect().bottom"
    in_view = [page.evaluate(bottom)]
    page.screenshot(path=shots / f"busy-{width}-{_theme(page)}.png")
    page.wait_for_selector("#verdict")
    settle(page)
    in_view.append(page.evaluate(bottom))
    page.screenshot(path=shots / f"done-{width}-{_theme(page)}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert all(0 < y <= 900 for y in in_view), "the result stands, and stays, where one looks"
    page.get_by_role("tab", name="About").click()
    page.wait_for_selector("#about >> text=Responsible use")
    page.screenshot(path=shots / f"about-{width}-{_theme(page)}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def _theme(page: Page) -> str:
    return "dark" if page.locator("body.dark").count() else "light"


def test_everything_can_be_reached_by_keyboard(page: Page):
    reached = set()
    for _ in range(70):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('[id]:not([id^=component], [id^=html-])')?.id"))
    wanted = {"depth", "invert", "examples", "prompt", "go", "stop", "distilled-steps", "undistilled-steps", "seed"}
    wanted |= {"sketch-fold", "ideas", "task", "preset", "randomise", "advanced", "history-fold", "reload"}
    assert wanted - reached == set()


NAMELESS = """() => [...document.querySelectorAll("input, textarea, button")].filter(
    (e) => e.offsetParent && !(e.labels?.length || e.ariaLabel || e.title || e.innerText?.trim()
        || e.getAttribute("aria-labelledby"))
).map((e) => e.outerHTML.slice(0, 200))"""


def test_inputs_have_names_and_pictures_descriptions(page: Page):
    assert page.evaluate(NAMELESS) == []
    upload_ramp(page)
    described = page.locator("#page img").evaluate_all("all => all.filter(e => !e.hasAttribute('alt')).length")
    assert described == 0
