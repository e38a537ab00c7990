"""The door: which of Gradio's many routes are open here, and how much a request may bring along."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

Scope = MutableMapping[str, object]
Receive = Callable[[], Awaitable[MutableMapping[str, object]]]
Send = Callable[[MutableMapping[str, object]], Awaitable[None]]

# Gradio brings them along for components that this page hasn't got. They keep files outside the folder that is swept,
# take a thousand files at once, or tell who is here.
CLOSED = re.compile(
    r"^(/gradio_api)?/(process_recording|component_server|deep_link|monitoring|(undo-)?vibe-|proxy=|dev/)"
)
UPLOADS = re.compile(r"^/gradio_api/(upload|mcp)")
ANSWERS = re.compile(r"^/gradio_api/call/(?:v2/)?[^/]+/([^/]+)$")

CALL = 4 << 20  # bytes of a call without files; a map drawn on the canvas comes within one
LIGHT = 64 << 10  # bytes of a call that brings nothing but settings
AROUND = 1 << 20  # bytes, of what stands around a file
NOT_HERE = "There is nothing here."
NO_EVENT = "There is no such event, or its results were fetched already."
TOO_MUCH = "This is too much for one request: at most {} MB."
FULL_UP = "There is no room for uploads at the moment; try again in a minute."


class Gate:
    """ASGI middleware that turns away what nobody here has use for.

    Args:
        app: what lies behind.
        largest: bytes of one uploaded file.
        awaited: whether an event's results can be fetched still.
        room: whether there is room for so many bytes more of uploads.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        largest: int,
        awaited: Callable[[str], bool],
        room: Callable[[int], bool],
    ) -> None:
        self.app, self.largest, self.awaited, self.room = app, largest, awaited, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = str(scope["path"])
        event = ANSWERS.match(path) if scope["method"] == "GET" else None
        if CLOSED.match(path):
            await JSONResponse({"detail": NOT_HERE}, 404)(scope, receive, send)
        elif event and not self.awaited(event[1]):
            await JSONResponse({"detail": NO_EVENT}, 404)(scope, receive, send)
        else:
            await self._measured(scope, receive, send, path)

    async def _measured(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        """Count what comes in; not every request says beforehand how much it will be."""
        most, uploads = CALL, bool(UPLOADS.match(path))
        if uploads:
            most = self.largest * (4 if "/mcp" in path else 3) // 3 + AROUND  # as text, three bytes take four letters
        words, come = TOO_MUCH.format(most >> 20), 0
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if not told.isdigit() or int(told) > most:
            await JSONResponse({"detail": words}, 413)(scope, receive, send)
            return

        async def counted() -> MutableMapping[str, object]:
            nonlocal come
            message = await receive()
            more = len(message.get("body", b""))
            come += more
            if come > most:
                raise HTTPException(413, words)
            if (uploads or come > LIGHT) and not self.room(more):
                raise HTTPException(507, FULL_UP)
            return message

        await self.app(scope, counted, send)
