"""The rest that a visitor can press, in a real browser: a closer look, history, links, drawn maps, the grid."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlparse
from zipfile import ZipFile

import numpy as np
import pytest
from browsing import LONG_RUN, LONGEST_RUN, choose_steps, connect, fetched, settle, upload_ramp, violations, visit
from gradio_client import handle_file
from pictures import RAMP8
from PIL import Image

from app.schema import LANES
from app.ui_public import TOO_MANY

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


def run(page: Page, distilled: int = 2, undistilled: int = 3) -> None:
    """Upload and draw, with few steps."""
    upload_ramp(page)
    choose_steps(page, "distilled-steps", distilled)
    choose_steps(page, "undistilled-steps", undistilled)
    generate(page)


def generate(page: Page) -> None:
    page.evaluate("document.querySelector('#verdict')?.remove()")
    page.click("#go")
    page.wait_for_selector("#verdict")


def unfold(page: Page, which: str) -> None:
    page.locator(f"#{which} > button").click()
    settle(page)


@pytest.fixture(scope="module")
def drawn(browser: Browser, url: str) -> Iterator[Page]:
    """The page with a result, for all that only look at it, or take it home."""
    with visit(browser, url) as opened:
        opened.locator("#prompt textarea").fill("dunes at noon")
        run(opened)
        yield opened


def test_two_results_can_be_looked_at_closely(drawn: Page, shots: Path):
    page = drawn
    viewer = page.locator("#viewer")
    assert viewer.locator("select[data-side]").all_inner_texts()[0].split("\n") == [
        "Distilled, 2 steps",
        "Undistilled, 2 steps",
        "Undistilled, 3 steps",
        "Depth map",
    ]
    left = viewer.locator(".cdd-left img")
    assert left.get_attribute("src") == page.locator("#card-distilled img").get_attribute("src")
    viewer.locator("select[data-side=left]").select_option(label="Depth map")
    assert left.get_attribute("src") == page.locator("#card-map img").get_attribute("src")
    clips = []
    for split in ("10", "90"):
        viewer.locator("[data-split]").fill(split)
        clips.append(viewer.locator(".cdd-left").evaluate("e => getComputedStyle(e).clipPath"))
    assert clips[0] != clips[1]
    for side in ("left", "right"):
        viewer.locator(f"select[data-side={side}]").select_option(label="Undistilled, 3 steps")
    viewer.locator("select[data-view]").select_option("difference")
    settle(page)
    picture = np.asarray(Image.open(BytesIO(viewer.locator(".cdd-frame").screenshot())).convert("RGB"))
    assert picture[20:-20, 20:-20].max() < 8, "a picture differs from itself in nothing"
    viewer.locator("select[data-view]").select_option("side")
    viewer.locator("select[data-zoom]").select_option("4")
    assert "matrix(4" in left.evaluate("e => getComputedStyle(e).transform")
    viewer.locator(".cdd-frame").press("ArrowRight")
    assert viewer.locator(".cdd-frame").evaluate("e => e.style.getPropertyValue('--x')") == "55%"
    page.screenshot(path=shots / "viewer.png", full_page=True)


def test_the_steps_can_be_played_again(drawn: Page):
    page = drawn
    final = page.locator("#card-full img").get_attribute("src")
    first = page.locator("#strip-full img").first.get_attribute("src")
    page.click("[data-play]")
    page.wait_for_function("first => document.querySelector('#card-full img').getAttribute('src') == first", arg=first)
    page.wait_for_function("final => document.querySelector('#card-full img').getAttribute('src') == final", arg=final)
    page.wait_for_selector("[data-play]:not([disabled])")


def test_a_step_that_is_pointed_at_is_shown_of_every_lane(drawn: Page, shots: Path):
    page = drawn

    def shown() -> list[str | None]:
        return [page.locator(f"#card-{lane} img").get_attribute("src") for lane in ("distilled", "same", "full")]

    def at(*steps: int) -> list[str | None]:
        pairs = zip(("distilled", "same", "full"), steps, strict=True)
        return [page.locator(f"#strip-{lane} li:nth-child({k}) img").get_attribute("src") for lane, k in pairs]

    assert shown() == at(2, 2, 3)
    for steps in ((1, 1, 1), (1, 1, 2), (2, 2, 3)):
        page.locator(f"#strip-full li:nth-child({steps[2]}) img").hover()
        assert shown() == at(*steps), "of the others the last that was drawn by that noise level"
        assert page.locator(".cdd-alike").count() == 3
    page.screenshot(path=shots / "aligned.png", full_page=True)
    page.locator("#verdict").hover()
    assert shown() == at(2, 2, 3)
    assert page.locator(".cdd-alike").count() == 0
    page.locator("#strip-full li:nth-child(1)").focus()  # as a tap does, or the tabulator key
    page.wait_for_function("document.querySelectorAll('.cdd-alike').length == 3")
    assert shown() == at(1, 1, 1)
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#strip-full li:nth-child(2)').classList.contains('cdd-alike')")
    assert shown() == at(1, 1, 2)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_function("document.querySelectorAll('.cdd-alike').length == 0")
    assert shown() == at(2, 2, 3)


def test_what_is_equally_noisy_stands_below_each_other(drawn: Page):
    def left(lane: str, k: int) -> float:
        return drawn.locator(f"#strip-{lane} li:nth-child({k})").bounding_box()["x"]

    times = [[int(tile.get_attribute("data-t")) for tile in drawn.locator(f"#strip-{lane} li").all()] for lane in LANES]
    assert [len(own) for own in times] == [2, 2, 3]
    assert left("distilled", 1) == left("same", 1) == left("full", 1)
    later = next(k for k, t in enumerate(times[2]) if t <= times[0][1])
    assert left("distilled", 2) == left("same", 2) == left("full", later + 1)


def test_a_look_that_comes_late_leaves_the_run_alone(page: Page, tmp_path: Path):
    large = tmp_path / "large.png"
    Image.fromarray(RAMP8).resize((4000, 3900)).save(large, compress_level=0)
    choose_steps(page, "distilled-steps", 1)
    choose_steps(page, "undistilled-steps", 2)
    page.set_input_files("#depth input[type=file]", large)
    page.wait_for_selector("#depth img")
    page.click("#go")
    page.wait_for_selector("#verdict")
    page.wait_for_timeout(1500)
    assert page.inner_text("#status").startswith("Done:")
    assert page.locator("#strip-full li[data-t]").count() == 2


def test_everything_of_a_run_can_be_saved(drawn: Page, shots: Path):
    saved = {}
    for what in ("GIF", "WebP", "Contact sheet", "All steps (ZIP)"):
        with drawn.expect_download() as download:
            drawn.locator("#actions a", has_text=what).click()
        saved[what] = Path(download.value.path()).read_bytes()
    assert not drawn.locator("#unsaved").is_visible()
    drawn.route("**/keepsakes/**", lambda route: route.fulfill(status=422, body="It is busy."))
    drawn.locator("#actions a", has_text="GIF").click()
    drawn.wait_for_selector("#unsaved >> text=It is busy.")
    drawn.unroute("**/keepsakes/**")
    assert Image.open(BytesIO(saved["GIF"])).n_frames > 2
    assert Image.open(BytesIO(saved["WebP"])).n_frames > 2
    (shots / "contact-sheet.png").write_bytes(saved["Contact sheet"])
    packed = ZipFile(BytesIO(saved["All steps (ZIP)"]))
    assert len(packed.namelist()) == 1 + 2 + 2 + 3 + 1
    trace = json.loads(packed.read("trace.json"))
    assert trace["lanes"]["full"]["nfe"] >= 3
    for name in packed.namelist()[1:-1]:
        assert "trainedAlgorithmicMedia" in str(Image.open(BytesIO(packed.read(name))).info)


def test_a_saved_picture_brings_its_settings_back(drawn: Page, tmp_path: Path):
    page = drawn
    with page.expect_download() as download:
        page.locator("#card-distilled a").click()
    download.value.save_as(tmp_path / "saved.png")
    page.locator("#prompt textarea").fill("")
    page.locator("input[data-testid$='upload-button']").set_input_files(tmp_path / "saved.png")
    page.wait_for_function("document.querySelector('#prompt textarea').value == 'dunes at noon'")
    Image.new("RGB", (32, 32)).save(tmp_path / "other.png")
    page.locator("input[data-testid$='upload-button']").set_input_files(tmp_path / "other.png")
    page.wait_for_selector(".toast-body >> text=doesn't say how it was made")
    assert "doesn't say how it was made" in page.locator("#status [role=alert]").inner_text()


# It is written down, and shown, a moment after the run.
ONE_RUN = "document.querySelectorAll('#history ol button').length == 1"


def test_history_and_link_bring_settings_back(page: Page, url: str):
    page.locator("#prompt textarea").fill("a winter night")
    run(page)
    seed = page.locator("#seed input").input_value()
    page.locator("#prompt textarea").fill("something else")
    choose_steps(page, "distilled-steps", 5)
    unfold(page, "history-fold")
    page.wait_for_function(ONE_RUN)
    page.locator("#history ol button").click()
    page.wait_for_selector("#status >> text=Settings restored")
    assert page.locator("#prompt textarea").input_value() == "a winter night"
    assert page.locator("#distilled-steps input[type=number]").input_value() == "2"
    assert page.locator("#seed input").input_value() == seed
    assert not page.locator("#randomise input").is_checked()
    source, changed = "() => document.querySelector('#card-map img').getAttribute('src')", "before => {} != before"
    for turn in (lambda: page.locator("#invert input").check(), page.locator("#history ol button").click):
        before = page.evaluate(source)
        turn()
        page.wait_for_function(changed.format(f"({source})()"), arg=before)  # the map, as it is read from now on
    assert not page.locator("#invert input").is_checked()
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector("#family >> text=Loaded:")
    unfold(page, "history-fold")
    page.wait_for_function(ONE_RUN)  # kept in the browser
    page.locator("#history [data-clear]").click()
    assert page.locator("#history ol button").count() == 0
    run(page)
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")
    page.click("[data-link]")
    page.wait_for_selector("text=See the address bar")
    link = page.evaluate("location.href")
    told = json.loads(parse_qs(urlparse(link).query)["settings"][0])
    assert told["distilled_steps"] == 2
    page.goto(link, wait_until="domcontentloaded")
    page.wait_for_selector("#status >> text=Settings restored")
    assert page.locator("#undistilled-steps input[type=number]").input_value() == "3"
    assert page.locator("#seed input").input_value() == str(told["seed"])


# Two frames later: movements reach the page with the next one.
PAINTED = """(canvas) => new Promise((resolve) =>
    requestAnimationFrame(() => requestAnimationFrame(() => resolve(canvas.toDataURL()))))"""


def test_a_map_can_be_drawn(page: Page, url: str, shots: Path):
    unfold(page, "sketch-fold")
    canvas = page.locator("#sketch canvas")
    page.locator("#sketch [data-near]").fill("100")

    def stroke() -> None:
        canvas.scroll_into_view_if_needed()  # pressing a button may have moved it
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 60, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 120, box["y"] + 60, steps=5)
        page.mouse.up()

    drawings = [canvas.evaluate(PAINTED)]
    for act in (stroke, "undo", stroke, "clear", "undo"):
        act() if callable(act) else page.click(f"#sketch [data-{act}]")
        drawings.append(canvas.evaluate(PAINTED))
    empty, first, undone, second, cleared, back = drawings
    assert first != empty == undone == cleared
    assert second == back != empty
    canvas.focus()
    for keys, changes in (("ArrowUp", False), (" ", True), ("Shift+ArrowLeft", True), ("ArrowDown", False)):
        page.keyboard.press(keys)
        drawings.append(canvas.evaluate(PAINTED))
        assert (drawings[-1] != drawings[-2]) is changes, keys
    assert page.locator(".cdd-brush").is_visible()
    page.screenshot(path=shots / "sketch.png")
    for _ in range(2):
        page.click("#sketch [data-undo]")
    assert canvas.evaluate(PAINTED) == back
    page.click("#sketch [data-use]")
    page.wait_for_selector("#card-map img")
    drawn = np.asarray(fetched(f"{url}/{page.locator('#card-map img').get_attribute('src')}").convert("L")).astype(int)
    side, scale = len(drawn), len(drawn) / canvas.bounding_box()["width"]
    assert drawn[int(60 * scale), int(90 * scale)] > 200, "near where the brush was"
    assert drawn[2, side // 2] < 40, "far above"
    choose_steps(page, "undistilled-steps", 2)
    generate(page)


def test_ideas_fill_the_prompt(page: Page):
    page.locator("#ideas button", has_text="sunset").click()
    page.locator("#ideas button", has_text="winter").click()
    assert page.locator("#prompt textarea").input_value() == "sunset, winter"
    page.locator("#ideas button", has_text="sunset").click()
    assert page.locator("#prompt textarea").input_value() == "winter"
    run(page)
    told = json.loads(page.locator("#verdict").get_attribute("data-settings"))
    assert told["prompt"] == "winter", "the server got what the box shows"


def test_more_settings_reach_the_run(page: Page, shots: Path):
    unfold(page, "advanced")
    page.locator("#lanes label", has_text="as few steps").click()
    choose_steps(page, "pictures", 3)
    page.locator("#guidance :is(input, textarea)").fill("2.5")
    page.fill("#prompt textarea", "a lake")
    run(page)
    assert page.locator("#card-same").count() == 0
    assert page.locator("#card-distilled img").count() == 3
    assert page.locator("#stage .cdd-strip").count() == 6
    assert "6 evaluations" in page.locator("#card-distilled").inner_text()
    assert "18 evaluations" in page.locator("#card-full").inner_text(), "guidance costs a second one"
    page.screenshot(path=shots / "three-pictures.png", full_page=True)
    page.locator("#guidance :is(input, textarea)").fill("much")
    page.click("#go")
    page.wait_for_selector("#status [role=alert] >> text=The guidance must be a number")


def test_the_other_settings_reach_the_run_too(page: Page):
    unfold(page, "advanced")
    page.locator("#rival input").click()
    page.get_by_role("option", name="UniPC").click()
    page.locator("#preview label", has_text="Rough").click()
    choose_steps(page, "control", 0.5)
    page.locator("#guidance :is(input, textarea)").fill("2")
    page.locator("#negative :is(input, textarea)").fill("fog")
    run(page, 2, 2)
    assert "Undistilled UniPC, 2 steps" in page.locator("#card-same").inner_text()
    seed = page.locator("#seed input").input_value()
    told = json.loads(page.locator("#verdict").get_attribute("data-settings"))
    wanted = {"rival": "unipc", "preview": "fast", "control": 0.5, "guidance": 2, "negative": "fog", "seed": int(seed)}
    assert told.items() >= wanted.items()
    generate(page)
    assert page.locator("#seed input").input_value() != seed, "chosen anew, and written back"
    page.locator("#randomise input").uncheck()
    page.locator("#seed input").fill("7")
    for lane in ("same", "all its steps"):
        page.locator("#lanes label", has_text=lane if lane != "same" else "as few steps").click()
    page.wait_for_selector("#negative :is(input, textarea):disabled")
    assert "never guided" in page.locator("#negative").inner_text()
    generate(page)
    told = json.loads(page.locator("#verdict").get_attribute("data-settings"))
    assert (told["seed"], told["lanes"]) == (7, ["distilled"])


SAID = """() => {
    window.said = new Promise((resolve) => window.addEventListener("offline", () => resolve(
        [document.querySelector("#status").innerText, getComputedStyle(document.querySelector("#go")).pointerEvents]
    )));
}"""


def test_a_lost_connection_is_told_and_generate_is_free_again(page: Page):
    upload_ramp(page)
    choose_steps(page, "undistilled-steps", LONGEST_RUN)
    page.click("#go")
    page.wait_for_selector("#strip-full li:nth-child(2) img")
    # At once: what is under way still arrives here, as it wouldn't through a line that is really cut.
    page.evaluate(SAID)
    page.context.set_offline(True)
    words, generate = page.evaluate("window.said")
    assert "The connection to the server is lost" in words
    assert generate == "auto", "it can be pressed"
    page.context.set_offline(False)
    page.click("#stop")
    page.wait_for_selector("#status >> text=Stopped.")


def test_a_preset_sets_the_steps(page: Page):
    page.locator("#preset label", has_text="Quick").click()
    page.wait_for_function("document.querySelector('#distilled-steps input[type=number]').value == '1'")
    assert page.locator("#undistilled-steps input[type=number]").input_value() == "20"


def test_a_grid_is_drawn(page: Page, shots: Path):
    upload_ramp(page)
    page.get_by_role("tab", name="Grid").click()
    page.locator("#grid-columns label", has_text="50").click()
    page.click("#grid-go")
    page.wait_for_selector("#grid-status >> text=/[1-5] of \\d+ pictures/")
    assert page.locator("#grid-go").get_attribute("aria-disabled") == "true", "it rests"
    page.click("#grid-stop")
    page.wait_for_selector("#grid-status >> text=Stopped.")
    assert page.locator("#grid-sheet img").count() == 1, "what was drawn stays"
    page.wait_for_timeout(500)  # the step that was being drawn
    for steps in ("50", "8", "4"):
        page.locator("#grid-columns label", has_text=steps).click()
    page.locator("#grid-rows label", has_text="Four seeds").click()
    page.click("#grid-go")
    page.wait_for_selector("#grid-status >> text=Done.")
    page.click("#grid-stop")
    settle(page)
    assert "Done." in page.locator("#grid-status").inner_text(), "there was nothing to stop"
    assert page.locator("#grid-go").get_attribute("aria-disabled") == "false"
    page.screenshot(path=shots / "grid.png", full_page=True)
    with page.expect_download() as download:
        page.locator("#grid-sheet a").click()
    with Image.open(download.value.path()) as sheet:
        assert sheet.width > 4 * 32
        assert '"columns": [1, 2]' in sheet.info["parameters"]
        assert '"rows": "seeds"' in sheet.info["parameters"]


@pytest.mark.parametrize("page", [(1280, "light"), (390, "dark")], indirect=True)
def test_axe_finds_no_serious_violation(page: Page):
    """On the page as it comes, with a result, and on the other tabs."""
    found = violations(page, "empty")
    run(page)
    for fold in ("sketch-fold", "advanced", "history-fold"):
        unfold(page, fold)
    found += violations(page, "done")
    for tab in ("Grid", "About"):
        page.get_by_role("tab", name=tab).click()
        found += violations(page, tab)
    assert found == []


def test_who_closes_the_tab_frees_the_device(browser: Browser, url: str, tmp_path: Path):
    """As Stop does: of fifty steps or more that were ordered, next to none are drawn for nobody."""
    health = connect(url, tmp_path)
    with visit(browser, url) as page:
        upload_ramp(page)
        choose_steps(page, "undistilled-steps", LONG_RUN)
        page.click("#go")
        page.wait_for_selector("#strip-full li:nth-child(3) img")
    after = counted = health.predict(api_name="/health")
    while after["busy"]:
        after = health.predict(api_name="/health")
    assert after["evaluations"] - counted["evaluations"] <= 2


def test_who_waits_sees_how_many_are_before(browser: Browser, url: str, tmp_path: Path, shots: Path):
    Image.fromarray(RAMP8).save(tmp_path / "ramp.png")
    client = connect(url, tmp_path)
    with visit(browser, url) as page:
        upload_ramp(page)
        long = client.submit(
            "depth", handle_file(tmp_path / "ramp.png"), "", LONGEST_RUN, 1, "undistilled", api_name="/sample"
        )
        next(iter(long))  # it has the device
        page.click("#go")
        page.wait_for_selector("#status >> text=/queue: 1\\/1/")
        page.screenshot(path=shots / "waiting.png")
        long.cancel()
        page.wait_for_selector("#strip-distilled li:nth-child(4) img")
        assert page.locator("#status >> text=/queue: /").count() == 0
        page.click("#stop")


def test_a_visitor_who_piles_up_runs_is_told(browser: Browser, url: str, tmp_path: Path):
    """Eight runs in one go from one address: each is drawn or told that there are too many, and so is the page."""
    Image.fromarray(np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)).save(tmp_path / "ramp.png")
    client = connect(url, tmp_path)

    def given(steps: int) -> tuple:
        return "depth", handle_file(tmp_path / "ramp.png"), "", steps, 1, "undistilled"

    def ask(_: int) -> str:
        try:
            client.predict(*given(1), api_name="/sample")
        except Exception as error:
            return str(error)
        return "drawn"

    with visit(browser, url, harmless="status of 400") as page, ThreadPoolExecutor(8) as pool:
        upload_ramp(page)
        long = client.submit(*given(LONGEST_RUN), api_name="/sample")
        next(iter(long))  # it has the device, until the others have all asked
        asked = [pool.submit(ask, number) for number in range(7)]
        assert next(as_completed(asked)).result() != "drawn"
        page.click("#go")
        page.wait_for_selector(f"text={TOO_MANY}")
        long.cancel()
        answers = [each.result() for each in asked]
    assert "drawn" in answers
    told = [answer for answer in answers if answer != "drawn"]
    assert told
    assert all(re.search("runs waiting|Queue is full", answer) for answer in told), told
