"""The demo in a process of its own, for benchmarks that are its visitors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Server:
    """A running demo: where it is, its process, and when that was started (``time.monotonic``)."""

    url: str
    process: subprocess.Popen
    started: float


@contextmanager
def serving(checkpoints: Path, family: str, environ: Mapping[str, str]) -> Iterator[Server]:
    """Start the demo on the CPU and wait until its models are loaded; end it afterwards.

    Args:
        checkpoints, family: what it shows.
        environ: further ``CDD_*`` variables.

    Raises:
        RuntimeError: it ended before it was ready.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as files:
        command = [sys.executable, "app.py", "--port", str(port), "--device", "cpu", "--family", family]
        process = subprocess.Popen(
            [*command, "--checkpoints", str(checkpoints)],
            cwd=ROOT,
            env=os.environ | {"GRADIO_TEMP_DIR": files} | dict(environ),
        )
        server = Server(f"http://127.0.0.1:{port}", process, time.monotonic())
        try:
            _wait(server)
            yield server
        finally:
            process.terminate()
            process.wait(30)


def _wait(server: Server) -> None:
    while server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}/health", trust_env=False).json().get("ready", False):
                return
        except (httpx.HTTPError, ValueError):
            pass
        time.sleep(0.05)
    raise RuntimeError("the demo ended before it was ready")
