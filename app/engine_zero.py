"""The engine on ZeroGPU: models are loaded at once, and every run asks for the device by how long it may take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

from app.engine import Engine
from app.engine_requests import GRID_SEEDS
from app.limits import whole
from app.schema import LANES, MAX_COLUMNS, MAX_PICTURES, SAMPLERS, CompareRequest, EngineError, GridRequest, Seen
from cdd_core.inference import MAX_STEPS

LEAST, EACH = 5.0, 0.15  # seconds: of any run, and of one network evaluation with its share of decoding
MOST = 120
SQUARES = 9  # that a large picture is enlarged in


def seconds_of(request: CompareRequest) -> int:
    """What to ask for a comparison; the shorter, the sooner its turn comes."""
    few, many = (_counted(steps, MAX_STEPS) for steps in (request.distilled_steps, request.undistilled_steps))
    branches, squares = _times(request)
    pictures = _counted(request.pictures, MAX_PICTURES)
    each = {"distilled": few, "same": branches * few, "full": branches * many}
    lanes = request.lanes if isinstance(request.lanes, (list, tuple)) else LANES
    evaluations = sum(spent for lane, spent in each.items() if lane in lanes)
    return min(MOST, round(LEAST + EACH * squares * pictures * evaluations))


def seconds_of_grid(request: GridRequest) -> int:
    """Likewise for a grid."""
    branches, squares = _times(request.base)
    rows = max(2 + len(SAMPLERS) * branches, GRID_SEEDS)  # two students at most
    columns = request.columns[:MAX_COLUMNS]
    return min(MOST, round(LEAST + EACH * squares * rows * sum(_counted(steps, MAX_STEPS) for steps in columns)))


def _times(request: CompareRequest) -> tuple[int, int]:
    """Evaluations in an undistilled step, and squares that a picture is drawn in."""
    return 3 if request.task == "edit" else 2, SQUARES if request.task == "upscale" else 1


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
    plain = engine.look

    def seen(*given: object) -> Iterator[Seen]:
        yield plain(*given)

    lent = _raised(spaces.GPU(duration=round(LEAST))(_handed_back(seen)))
    engine.compare = _raised(spaces.GPU(duration=seconds_of)(_handed_back(engine.compare)))
    engine.grid = _raised(spaces.GPU(duration=seconds_of_grid)(_handed_back(engine.grid)))

    def look(*given: object) -> Seen:
        """Of a photo's depth only the device can tell; for the rest nobody has to wait for it."""
        if not (given[4:] and given[4]):
            return plain(*given)
        (picture,) = lent(*given)
        return picture

    engine.look = look
    return engine


# Of what is raised in the process only the name comes back, and who asked shall read the sentence.


def _handed_back(function: Callable[..., Iterator[object]]) -> Callable[..., Iterator[object]]:
    def run(*given: object) -> Iterator[object]:
        try:
            yield from function(*given)
        except EngineError as error:
            yield error

    return run


def _raised(function: Callable[..., Iterator[object]]) -> Callable[..., Iterator[object]]:
    def run(*given: object) -> Iterator[object]:
        with closing(function(*given)) as events:
            for event in events:
                if isinstance(event, EngineError):
                    raise event
                yield event

    return run
