"""The engine on ZeroGPU: models are loaded at once, and every run asks for the device by how long it may take."""

from __future__ import annotations

from PIL import Image

from app.engine import Engine
from app.limits import whole
from app.schema import MAX_COLUMNS, MAX_PICTURES, CompareRequest, EngineError, GridRequest
from cdd_core.inference import MAX_STEPS

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
    engine.compare = spaces.GPU(duration=seconds_of)(engine.compare)
    engine.grid = spaces.GPU(duration=seconds_of_grid)(engine.grid)
    plain, lent = engine.look, spaces.GPU(duration=round(LEAST))(engine.look)

    def look(*given: object) -> Image.Image:
        """Of a photo's depth only the device can tell; for the rest nobody has to wait for it."""
        return (lent if given[4:] and given[4] else plain)(*given)

    engine.look = look
    return engine
