"""The endpoints as tools for language models, called by the protocol's own client."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, Tool
from pictures import RAMP, encoded
from PIL import Image
from served import served

from app.engine import Engine
from app.settings import Settings
from cdd_core.png import read_parameters


@pytest.fixture(scope="module")
def address(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradio.mcp.Client", partial(Client, httpx_kwargs={"timeout": 120}))
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("files")))
        settings = Settings(checkpoints=family.parent, family=family.name, device="cpu", mcp=True)
        with served(Engine(settings), settings) as (_, url):
            yield url


async def talk(address: str, **arguments: object) -> tuple[dict[str, Tool], CallToolResult]:
    """List the tools, then call ``sample``."""
    async with (
        streamable_http_client(f"{address}/gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        tools = {tool.name.split("_")[-1]: tool for tool in (await session.list_tools()).tools}
        return tools, await session.call_tool(tools["sample"].name, arguments)


def test_a_language_model_can_draw(address: str):
    image = "data:image/png;base64," + base64.b64encode(encoded(Image.fromarray(RAMP))).decode()
    asked = {"task": "depth", "prompt": "a lake", "steps": 2, "seed": 3, "variant": "distilled"}
    tools, answer = asyncio.run(talk(address, image=image, **asked))
    assert {"compare", "sample"} <= set(tools)
    assert "health" not in tools
    assert "distilled" in tools["compare"].description
    assert set(asked) | {"image"} <= set(tools["sample"].inputSchema["properties"])
    assert not answer.isError
    told = " ".join(part.text for part in answer.content if part.type == "text")
    url = re.search(r"'url': '(http[^']+\.png)'", told).group(1)
    drawn = Image.open(BytesIO(httpx.get(url, timeout=120).content))
    assert read_parameters(drawn)["seed"] == 3


def test_a_language_model_is_told_what_is_wrong(address: str):
    text = "data:image/png;base64," + base64.b64encode(b"no picture").decode()
    _, answer = asyncio.run(talk(address, task="depth", image=text, prompt="x", steps=2, seed=3, variant="distilled"))
    assert answer.isError
    assert re.search("This (file|picture)", str(answer.content)), answer.content
    assert "Traceback" not in str(answer.content)
