"""Many visitors at once, for minutes: what becomes of every request, and of the server's memory.

    python -m benchmarks.load --clients 50 --seconds 300 --out docs/load.json
    python -m benchmarks.load --clients 4 --requests 500

Starts the demo in a process of its own. Every client has an address (as a proxy would tell it), a prompt and a seed of
its own; an answer or a picture that names another client's counts as mixed up, no answer at all as lost. Ends with an
error if there was any of these, or a refusal for another reason than being busy, or if memory grew by more than 5 %.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import psutil
import tyro
from PIL import Image

from app.ui_public import FULL, TOO_MANY
from benchmarks.report import publish
from benchmarks.server import serving

BUSY = (FULL, TOO_MANY, "The device is still busy")
WARM_UP = 20  # runs before memory is looked at for the first time
GROWTH = 1.05  # of memory after that
PATIENCE = 300.0  # seconds for one answer


@dataclass(frozen=True)
class Options:
    """How many, how long."""

    clients: int = 50
    seconds: float = 300.0
    requests: int = 0
    """Stop after so many requests, instead of after so many seconds."""
    checkpoints: Path = Path("checkpoints")
    family: str = "pocket"
    steps: int = 4
    """Of the distilled lane; the undistilled one gets as many."""
    out: Path | None = None


def picture() -> bytes:
    """A depth map."""
    written = BytesIO()
    Image.fromarray(np.tile(np.linspace(0, 255, 128).astype(np.uint8)[:, None], (1, 128))).save(written, "PNG")
    return written.getvalue()


async def ask(http: httpx.AsyncClient, who: int, turn: int, steps: int) -> str:
    """One visit: upload, draw, read the answer. Returns what became of it."""
    prompt, seed = f"visitor {who} turn {turn}", 1000 * who + turn
    headers = {"x-forwarded-for": f"10.0.{who // 250}.{who % 250}"}
    try:
        sent = await http.post("/gradio_api/upload", files={"files": ("map.png", picture())}, headers=headers)
        image = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
        # By names, for everything else has the page's own default.
        numbers = {"seed": seed, "randomise": False, "distilled_steps": steps, "undistilled_steps": steps}
        data = {"task": "depth", "image": image, "prompt": prompt, **numbers, "lanes": ["distilled", "full"]}
        joined = await http.post("/gradio_api/call/v2/compare", json=data, headers=headers)
        if joined.status_code != 200:
            return "busy" if any(words in joined.text for words in BUSY) else f"refused: {joined.text[:80]}"
        answer = await http.get(f"/gradio_api/call/compare/{joined.json()['event_id']}", headers=headers)
        if "event: complete" not in answer.text:
            return "busy" if any(words in answer.text for words in BUSY) else f"lost: {answer.text[-80:]}"
        _, finals, facts = json.loads(answer.text.split("event: complete")[-1].split("data: ")[1])
        files = [await http.get(f"/gradio_api/file={final['image']['path']}", headers=headers) for final in finals]
    except httpx.HTTPError as error:
        return f"lost: {type(error).__name__}"
    if any(file.status_code != 200 for file in files):
        return "lost: a picture"
    # The pictures themselves say what they were drawn from.
    told = [facts, *(json.loads(Image.open(BytesIO(file.content)).info["parameters"]) for file in files)]
    own = len(files) == 2 and all((each["prompt"], each["seed"]) == (prompt, seed) for each in told)
    return "drawn" if own else "mixed up"


def turns(options: Options) -> Iterator[int]:
    """Something to draw from, by all clients, until time is up or everything has been asked."""
    until, turn = time.monotonic() + options.seconds, 0
    while turn < options.requests if options.requests else time.monotonic() < until:
        yield turn
        turn += 1


async def visit(http: httpx.AsyncClient, who: int, left: Iterator[int], steps: int, told: Counter[str]) -> None:
    """Come back as long as there is something left to ask; who is sent away waits a moment first."""
    for turn in left:
        outcome = await ask(http, who, turn, steps)
        told[outcome] += 1
        if outcome != "drawn":
            await asyncio.sleep(1.0)


async def storm(url: str, options: Options, server: psutil.Process) -> dict[str, object]:
    """Warm up, then all clients at once."""
    warm: Counter[str] = Counter()
    told: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=2 * options.clients)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False, limits=limits) as http:
        for turn in range(WARM_UP):
            warm[await ask(http, options.clients + 1, turn, options.steps)] += 1
        before, begin, left = server.memory_info().rss, time.monotonic(), turns(options)
        await asyncio.gather(*(visit(http, who, left, options.steps, told) for who in range(options.clients)))
        after, seconds = server.memory_info().rss, time.monotonic() - begin
        health = (await http.get("/health")).json()
    return {
        "clients": options.clients,
        "seconds": seconds,
        "warm_up": dict(warm),
        "outcomes": dict(told),
        "memory_after_warm_up": before,
        "memory_at_the_end": after,
        "memory_ratio": after / before,
        "health": health,
    }


def failures(report: dict) -> list[str]:
    """What should not have happened; empty if all is well."""
    found = [f"warm-up: {outcome}" for outcome in report["warm_up"] if outcome != "drawn"]
    found += [outcome for outcome in report["outcomes"] if outcome not in ("drawn", "busy")]
    if not report["outcomes"].get("drawn"):
        found.append("nothing was drawn")
    if report["memory_ratio"] > GROWTH:
        found.append(f"memory grew to {report['memory_ratio']:.2f} times what it was after the warm-up")
    return found


def main(options: Options) -> dict[str, object]:
    """Start the demo, let the visitors in, report."""
    with serving(options.checkpoints, options.family, {"CDD_PROXIES": "1"}) as server:
        report = asyncio.run(storm(server.url, options, psutil.Process(server.process.pid)))
    return publish(report, options.out)


if __name__ == "__main__":
    sys.exit("\n".join(failures(main(tyro.cli(Options)))) or 0)
