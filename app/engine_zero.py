"""The engine on ZeroGPU: models are loaded at once, and every run asks for the device by how long it may take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

from PIL import Image

from app.engine import Engine
from app.limits import whole
from app.schema import MAX_COLUMNS, MAX_PICTURES, CompareRequest, EngineError, GridRequest
from cdd_core.inference import MAX_STEPS

Request = CompareRequest | GridRequest

LEAST, EACH = 5.0, 0.15  # seconds: of any run, and of one network evaluation with its share of decoding
MOST = 120
SQUARES = 9  # that a large picture is enlarged in


def seconds_of(request: CompareRequest) -> int:
    """What to ask for a comparison; the shorter, the sooner its turn comes."""
    few, many = (_counted(steps, MAX_STEPS) for steps in (request.distilled_steps, request.undistilled_steps))
    branches = 3 if request.task in ("edit", "upscale") else 2
    pictures = _counted(request.pictures, MAX_PICTURES)
    squares = SQUARES if request.task == "upscale" else 1
    return min(MOST, round(LEAST + EACH * squares * pictures * (few + branches * (few + many))))


def seconds_of_grid(request: GridRequest) -> int:
    """Likewise for a grid."""
    columns = request.columns[:MAX_COLUMNS]
    return min(MOST, round(LEAST + EACH * 8 * sum(_counted(steps, MAX_STEPS) for steps in columns)))


def _counted(value: object, most: int) -> int:
    """A number as the engine will take it; of what it will refuse, the least."""
    try:
        return whole("number", value, 1, most)
    except EngineError:
        return 1


def on_zero_gpu(engine: Engine) -> Engine:
    """Have runs of this engine take place where ZeroGPU lends its device: in a process forked for each of them.

    The models must lie on the device before; what the process hands back is pictures and facts, never tensors.
    """
    import spaces

    engine.family()
    plain, lent = engine.look, spaces.GPU(duration=round(LEAST))(_handed_back(engine.look))
    engine.compare = _raised(spaces.GPU(duration=seconds_of)(_handed_back_last(engine.compare)))
    engine.grid = _raised(spaces.GPU(duration=seconds_of_grid)(_handed_back_last(engine.grid)))

    def look(*given: object) -> Image.Image:
        """Of a photo's depth only the device can tell; for the rest nobody has to wait for it."""
        if not (given[4:] and given[4]):
            return plain(*given)
        seen = lent(*given)
        if isinstance(seen, EngineError):
            raise seen
        return seen

    engine.look = look
    return engine


# Of what is raised in the process only the name comes back, and who asked shall read the sentence.


def _handed_back(function: Callable[..., Image.Image]) -> Callable[..., Image.Image | EngineError]:
    def run(*given: object) -> Image.Image | EngineError:
        try:
            return function(*given)
        except EngineError as error:
            return error

    return run


def _handed_back_last(function: Callable[[Request], Iterator[object]]) -> Callable[[Request], Iterator[object]]:
    def run(request: Request) -> Iterator[object]:
        try:
            yield from function(request)
        except EngineError as error:
            yield error

    return run


def _raised(function: Callable[[Request], Iterator[object]]) -> Callable[[Request], Iterator[object]]:
    def run(request: Request) -> Iterator[object]:
        with closing(function(request)) as events:
            for event in events:
                if isinstance(event, EngineError):
                    raise event
                yield event

    return run
