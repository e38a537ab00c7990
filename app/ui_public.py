"""Manners of a public demo: how much one visitor may have waiting, words for whatever goes wrong, a page for the watch.

Gradio limits its queue as a whole only, so one visitor could fill it, and answers forged calls with an empty error and
a traceback in the log. It has no hooks for either; two of its methods are wrapped here.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr
from gradio.exceptions import InvalidPathError
from gradio.route_utils import FnIndexInferError
from gradio.routes import JSONResponse
from starlette.responses import FileResponse, PlainTextResponse, Response

from app.keepsakes import BUSY, GONE, PLACE, Keepsakes
from app.schema import EngineError, EngineLike

if TYPE_CHECKING:
    from gradio.block_function import BlockFunction
    from gradio.data_classes import PredictBodyInternal
    from gradio.queueing import Queue
    from gradio.routes import App

log = logging.getLogger(__name__)

DEVICE = "device"  # everything that draws queues under this name, one at a time
BROKEN = "Something went wrong on the server; its log says what. Try again, perhaps with another picture."
TOO_FEW = "The call brings {} of {} inputs; the page under “Use via API” lists them all."
NO_FILE = "The picture must be an uploaded file."
NO_ADDRESS = "Pictures from other addresses aren't fetched here; upload the file."
TOO_MANY = "You have as many runs waiting as one visitor may; let one of them finish first."
ADDRESS = re.compile(r"https?:", re.IGNORECASE)
CALLS = re.compile(r"/(call|queue|run|api)/")
REMEMBERED = 4000  # sessions; of half as many Gradio keeps the messages that nobody has fetched yet
NO_SUCH_CALL = "There is no such call, or not with these inputs; the page under “Use via API” lists them all."
FULL = "The queue is full of other visitors; try again in a minute."


def visitor(request: gr.Request, proxies: int) -> str:
    """Who asks: the address that the outermost of the trusted proxies was called from.

    Each proxy appends whom it speaks for, and what stands before that was written by the caller.
    """
    told = [entry.strip() for line in request.headers.getlist("x-forwarded-for") for entry in line.split(",")]
    if 0 < proxies <= len(told):
        return told[-proxies]
    return request.client.host if request.client else ""


def guard_queue(demo: gr.Blocks, size: int, most: int, proxies: int) -> None:
    """Refuse in a sentence, before anything is queued: what can't be right, and who would have to wait too long.

    Each kind of work has a queue of its own: who looks at pictures keeps nobody from drawing. What needn't wait for
    its turn, such as the page's introduction, is always let in.

    Args:
        demo: with its queue made, and without a size of Gradio's.
        size: events that may wait in each queue.
        most: how many of them may be one visitor's.
        proxies: see :func:`visitor`.
    """
    queue = demo._queue
    push = queue.push
    arriving: Counter[tuple[str, str]] = Counter()  # of queue and visitor: let in, but still being looked at

    def crowded(function: BlockFunction, who: str) -> str:
        own = queue.event_queue_per_concurrency_id.get(function.concurrency_id)
        here = Counter(visitor(event.request, proxies) for event in (own.queue if own else []))
        here += Counter({each: n for (where, each), n in arriving.items() if where == function.concurrency_id})
        if here[who] >= most:
            return TOO_MANY
        return FULL if here.total() >= size else ""

    async def guarded(body: PredictBodyInternal, request: gr.Request, username: str | None) -> tuple:
        function, who = demo.fns.get(body.fn_index), visitor(request, proxies)
        words, state = objection(function, body.data or ()), "error"
        if not words and function is not None and function.concurrency_limit is not None:
            words = crowded(function, who)
            # The page shows the words of any error but this one's, gradio_client those of none but this one.
            state = "error" if function.api_visibility == "private" else "queue_full"
        if words:
            log.info("refused: %s", words)
            return False, words, state
        place = (function.concurrency_id if function else "", who)
        arriving[place] += 1
        forget_sessions(queue)
        try:
            return await push(body, request, username)
        finally:
            arriving[place] -= 1
            if not arriving[place]:
                del arriving[place]

    queue.push = guarded


def forget_sessions(queue: Queue, most: int = REMEMBERED) -> None:
    """Gradio remembers every session that ever was, each call from a program being one, with those of its events whose
    end it hasn't heard of. Beyond ``most`` those go that wait for nothing, or for what can't come any more."""
    sessions, running = queue.pending_event_ids_session, queue.event_ids_to_events
    if len(sessions) <= most:
        return
    for session, own in list(sessions.items()):
        if not own or (session not in queue.pending_messages_per_session and not any(each in running for each in own)):
            del sessions[session]


def guard_calls(demo: gr.Blocks) -> None:
    """Have every event, whichever way it came in, end in a result or in a sentence."""
    process = demo.process_api

    async def guarded(block_fn: BlockFunction, inputs: list[object], **more: object) -> dict[str, object]:
        wrong = "" if more.get("iterator") else objection(block_fn, inputs)
        try:
            if wrong:
                raise EngineError(wrong)
            return await process(block_fn=block_fn, inputs=inputs, **more)
        except gr.Error as error:  # words already; those of Gradio's own come with a traceback
            error.print_exception = False
            raise
        except Exception as error:
            raise refusal(error) from error

    demo.process_api = guarded


def no_such_call(request: gr.Request, error: Exception) -> JSONResponse:
    """The answer to a call that Gradio's own routes stumble over; faults elsewhere stay faults."""
    if not CALLS.search(request.url.path):
        raise error
    log.info("refused: %s (%s)", NO_SUCH_CALL, type(error).__name__)
    return JSONResponse({"detail": NO_SUCH_CALL}, 400)


STUMBLES = dict.fromkeys((LookupError, TypeError, ValueError, FnIndexInferError), no_such_call)


def objection(function: BlockFunction | None, given: Sequence[object]) -> str:
    """What can't be right about a call's inputs, as a sentence; empty if nothing."""
    inputs = function.inputs if function else ()
    if len(given) < len(inputs):
        return TOO_FEW.format(len(given), len(inputs))
    if any(map(is_elsewhere, given)):
        return NO_ADDRESS
    forged = any(
        isinstance(block, gr.Image) and not (value is None or isinstance(value, dict))
        for block, value in zip(inputs, given, strict=False)
    )
    return NO_FILE if forged else ""


def is_elsewhere(given: object) -> bool:
    """A file that Gradio would fetch from the network first: of any size, for any time, and from anywhere."""
    if isinstance(given, dict):
        path = given.get("path")
        return isinstance(path, str) and bool(ADDRESS.match(path)) or any(map(is_elsewhere, given.values()))
    return isinstance(given, (list, tuple)) and any(map(is_elsewhere, given))


def refusal(error: Exception) -> gr.Error:
    """An error as the visitor reads it. The log has the rest, of words meant for visitors without what they quote."""
    if isinstance(error, EngineError):
        words = str(error)
        log.info("refused: %s", re.split(r" ['\"“]", words)[0])
    elif isinstance(error, InvalidPathError):
        words = NO_FILE
        log.info("refused: %s", words)
    elif isinstance(error, gr.Error) and not re.fullmatch(r"'\w+'", str(error.message)):
        return error  # ZeroGPU's own: what is left of a visitor's time
    else:
        words = BROKEN
        log.error("a call failed", exc_info=error)
    return gr.Error(words, duration=6, print_exception=False)


def add_routes(app: App, engine: EngineLike, keepsakes: Keepsakes) -> None:
    """What isn't Gradio's: ``GET /health`` (is it up, is it loaded, is it working), and the files of finished runs."""

    async def health() -> dict[str, object]:  # on no thread: visitors who wait may hold all of them
        return {"ready": engine.ready, "busy": engine.busy, "evaluations": engine.evaluations}

    def keepsake(token: str, kind: str) -> Response:
        try:
            path = keepsakes.file(token, kind)
        except KeyError:
            return PlainTextResponse(GONE, 404)
        except TimeoutError:
            return PlainTextResponse(BUSY, 503)
        return FileResponse(path, filename=path.name)

    app.add_api_route("/health", health, methods=["GET"], include_in_schema=False)
    app.add_api_route(f"/{PLACE}/{{token}}/{{kind}}", keepsake, methods=["GET", "HEAD"], include_in_schema=False)
