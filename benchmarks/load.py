"""Many visitors at once, for minutes: what becomes of every request, and of the server's memory.

    python -m benchmarks.load --clients 50 --seconds 300 --out docs/load.json

Starts the demo in a process of its own. Every client has an address (as a proxy would tell it), a prompt and a seed of
its own; an answer that names another client's counts as mixed up, no answer at all as lost.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import psutil
import tyro
from PIL import Image

from benchmarks.report import publish
from benchmarks.server import serving

BUSY = ("Queue is full", "runs waiting", "still busy")
WARM_UP = 20  # runs before memory is looked at for the first time
PATIENCE = 300.0  # seconds for one answer


@dataclass(frozen=True)
class Options:
    """How many, how long."""

    clients: int = 50
    seconds: float = 300.0
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
        lanes = ["distilled", "full"]
        more = [lanes, "ddim", 1, "", "", "", 1, "full", False]
        data = ["depth", image, prompt, seed, False, steps, steps, False, 0, *more]
        joined = await http.post("/gradio_api/call/compare", json={"data": data}, headers=headers)
        if joined.status_code != 200:
            return "busy" if any(words in joined.text for words in BUSY) else f"refused: {joined.text[:80]}"
        answer = await http.get(f"/gradio_api/call/compare/{joined.json()['event_id']}", headers=headers)
    except httpx.HTTPError as error:
        return f"lost: {type(error).__name__}"
    if "event: complete" not in answer.text:
        return "busy" if any(words in answer.text for words in BUSY) else f"lost: {answer.text[-80:]}"
    facts = json.loads(answer.text.split("event: complete")[-1].split("data: ")[1])[2]
    return "drawn" if (facts["prompt"], facts["seed"]) == (prompt, seed) else "mixed up"


async def visit(http: httpx.AsyncClient, who: int, until: float, steps: int, told: Counter[str]) -> None:
    """Come back until time is up; who is sent away waits a moment first."""
    turn = 0
    while time.monotonic() < until:
        outcome = await ask(http, who, turn, steps)
        told[outcome] += 1
        turn += 1
        if outcome != "drawn":
            await asyncio.sleep(1.0)


async def storm(url: str, options: Options, server: psutil.Process) -> dict[str, object]:
    """Warm up, then all clients at once."""
    told: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=2 * options.clients)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False, limits=limits) as http:
        for turn in range(WARM_UP):
            await ask(http, options.clients + 1, turn, options.steps)
        before = server.memory_info().rss
        until = time.monotonic() + options.seconds
        await asyncio.gather(*(visit(http, who, until, options.steps, told) for who in range(options.clients)))
        after = server.memory_info().rss
        health = (await http.get("/health")).json()
    return {
        "clients": options.clients,
        "seconds": options.seconds,
        "outcomes": dict(told),
        "memory_after_warm_up": before,
        "memory_at_the_end": after,
        "memory_ratio": after / before,
        "health": health,
    }


def main(options: Options) -> dict[str, object]:
    """Start the demo, let the visitors in, report."""
    with serving(options.checkpoints, options.family, {"CDD_BEHIND_PROXY": "1"}) as server:
        report = asyncio.run(storm(server.url, options, psutil.Process(server.process.pid)))
    return publish(report, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
