"""How soon a first-time visitor sees the first live prediction of the distilled model, in a browser.

    python -m benchmarks.first --out docs/first.json

Twice: from the start of the process, with a visitor who is there as soon as the models are, and from the click on an
example, the only one it takes, on warm models; the latter is the median over several clicks.
"""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from playwright.sync_api import Page, sync_playwright

from benchmarks.report import publish
from benchmarks.server import CHROMIUM_FLAGS, serving

FIRST = "#strip-distilled li:nth-child(1) img"
# Notes when the first step of the distilled lane is in the page, on the page's own clock.
WATCH = """() => {
    window.seen = new Promise((resolve) => {
        const look = () => document.querySelector("%s") ? resolve(performance.now()) : requestAnimationFrame(look);
        document.querySelector("#examples button").addEventListener("click", () => {
            window.clicked = performance.now();
            document.querySelector("#strip-distilled")?.remove();
            look();
        }, {once: true, capture: true});
    });
}"""


@dataclass(frozen=True)
class Options:
    """What to time."""

    checkpoints: Path = Path("checkpoints")
    family: str = "pocket"
    rounds: int = 7
    out: Path | None = None


def click(page: Page) -> float:
    """Choose the first example; seconds until the first step is drawn in the page."""
    page.evaluate(WATCH % FIRST)
    page.locator("#examples button").first.click()
    seconds = page.evaluate("async () => (await window.seen - window.clicked) / 1000")
    page.wait_for_selector("#verdict")
    page.wait_for_timeout(500)
    return float(seconds)


def main(options: Options) -> dict[str, object]:
    """Start the demo, open the page, choose the first example, again and again."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with serving(options.checkpoints, options.family, {}) as server, sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page()
        page.set_default_timeout(120_000)  # milliseconds; a whole run on a busy machine
        page.goto(server.url, wait_until="domcontentloaded")
        page.wait_for_selector("#family >> text=Loaded:")
        page.wait_for_selector("#examples button")
        until_click = time.monotonic() - server.started
        first = click(page)
        warm = [click(page) for _ in range(options.rounds)]
        browser.close()
    report = {
        "seconds_from_start": until_click + first,
        "seconds_from_first_click": first,
        "seconds_from_click_warm": statistics.median(warm),
        "all_warm": warm,
    }
    return publish(report, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
