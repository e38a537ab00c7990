"""Manners of a public demo: how many runs one visitor may have waiting, and a page for whoever watches over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gradio as gr

from app.schema import EngineLike

if TYPE_CHECKING:
    from gradio.data_classes import PredictBodyInternal
    from gradio.routes import App

DEVICE = "device"  # everything that draws queues under this name, one at a time
TOO_FEW = "The call brings {} of {} inputs; the page under “Use via API” lists them all."
NO_FILE = "The picture must be an uploaded file."
TOO_MANY = "You have as many runs waiting as one visitor may; let one of them finish first."


def visitor(request: gr.Request, behind_proxy: bool) -> str:
    """Who asks: the address, or what a trusted proxy says it is."""
    forwarded = request.headers.get("x-forwarded-for", "") if behind_proxy else ""
    return forwarded.split(",")[0].strip() or (request.client.host if request.client else "")


def guard_queue(demo: gr.Blocks, most: int, behind_proxy: bool) -> None:
    """Refuse in a sentence, before anything is queued: a run of whom so many are waiting already, a forged picture,
    a call that lacks inputs.

    Gradio limits its queue as a whole only, so one visitor could fill it; and it answers the other two with an empty
    error.

    Args:
        demo: with its queue made.
        most: runs that one visitor may have waiting.
        behind_proxy: believe the proxy about who asks.
    """
    queue = demo._queue
    push = queue.push

    async def guarded(body: PredictBodyInternal, request: gr.Request, username: str | None) -> tuple[bool, object, str]:
        function = demo.fns.get(body.fn_index)
        inputs, given = function.inputs if function else (), body.data or ()
        if len(given) < len(inputs):
            return False, TOO_FEW.format(len(given), len(inputs)), "error"
        for block, value in zip(inputs, given, strict=False):
            if isinstance(block, gr.Image) and not (value is None or isinstance(value, dict)):
                return False, NO_FILE, "error"
        if (
            function is not None
            and function.concurrency_id == DEVICE
            and DEVICE in queue.event_queue_per_concurrency_id
        ):
            waiting = queue.event_queue_per_concurrency_id[DEVICE].queue
            who = visitor(request, behind_proxy)
            if sum(visitor(event.request, behind_proxy) == who for event in waiting) >= most:
                return False, TOO_MANY, "queue_full"
        return await push(body, request, username)

    queue.push = guarded


def add_health(app: App, engine: EngineLike) -> None:
    """``GET /health``: is it up, is it loaded, is it working."""

    def health() -> dict[str, object]:
        return {"ready": engine.ready, "busy": engine.busy, "evaluations": engine.evaluations}

    app.add_api_route("/health", health, methods=["GET"], include_in_schema=False)
