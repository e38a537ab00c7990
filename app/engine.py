"""Owns the models: loads them once, lets one run at a time onto the device, hands out every step as it is drawn."""

from __future__ import annotations

import json
import logging
import math
import secrets
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image

from app.schema import (
    MAX_DISTILLED_STEPS,
    MAX_PROMPT,
    MAX_SEED,
    CompareRequest,
    EngineError,
    Event,
    Family,
    Lane,
    LaneReport,
    RunReport,
    RunStart,
    StepFrame,
    TaskName,
)
from app.settings import Settings
from cdd_core.images import PARAMETERS, ImageError, open_image, to_pil
from cdd_core.inference import MAX_STEPS, Model, PromptError, Step, check_prompt, load, prepare, sample
from cdd_core.quiet import quiet_libraries

log = logging.getLogger(__name__)

TASKS: tuple[TaskName, ...] = get_args(TaskName)  # the first one must be there, the others may
VARIANTS = ("distilled", "undistilled")
BUSY_SECONDS = 120.0  # how long a run waits for another to leave the device


class Engine:
    """The distilled and the undistilled model behind one lock.

    Args:
        settings: where the weights are, where to run, limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loading = threading.Lock()
        self._device = threading.Lock()  # not an RLock: a stopped run may be closed by another thread
        self._models: dict[tuple[str, str], Model] | None = None  # by task and variant
        self._evaluations = 0

    @property
    def ready(self) -> bool:
        """The models are loaded."""
        return self._models is not None

    @property
    def busy(self) -> bool:
        """A run holds the device."""
        return self._device.locked()

    @property
    def evaluations(self) -> int:
        """Times the denoising network has run since the start, whoever asked."""
        return self._evaluations

    def start(self) -> None:
        """Begin loading in the background; a run that comes too early waits for it."""
        quiet_libraries()
        threading.Thread(target=self._load_quietly, name="load models", daemon=True).start()

    def family(self) -> Family:
        """What is loaded; waits until it is.

        Raises:
            EngineError: the weights can't be loaded.
        """
        models = self._loaded()
        first = models[TASKS[0], "distilled"]
        trained_on = str(first.card.provenance.get("data", ""))
        tasks = tuple(task for task in TASKS if (task, "distilled") in models)
        return Family(self._settings.family, first.size, first.device.type, VARIANTS, trained_on, tasks)

    def look(self, task: TaskName, image: str | Path, invert: bool = False, degradation: float = 0.0) -> Image.Image:
        """A depth map or photo as the model sees it.

        Raises:
            EngineError: it can't be used.
        """
        strength = _number("degradation", degradation, 0.0, 1.0)
        return self._condition(self._model(task, "distilled"), self._opened(image), invert, strength)

    def compare(self, request: CompareRequest) -> Iterator[Event]:
        """Draw all lanes from the same noise: a :class:`RunStart`, a :class:`StepFrame` a step, a :class:`RunReport`.

        Closing the iterator stops after the step that is being drawn and frees the device.

        Raises:
            EngineError: the input can't be used, the weights are missing, or the device stays busy.
        """
        request = self._checked(request)
        picture = self._opened(request.image)
        seen = self._condition(self._model(request.task, "distilled"), picture, request.invert, request.degradation)
        start = RunStart(request, self._lanes(request), seen)
        yield start
        if not self._device.acquire(timeout=BUSY_SECONDS):
            raise EngineError("The device is still busy with another run; try again in a minute.")
        reports = []
        try:
            for lane in start.lanes:
                report = yield from self._draw(lane, picture, request)
                reports.append(report)
        finally:
            self._device.release()
        yield RunReport(request, tuple(reports))

    def _draw(
        self, lane: Lane, picture: Image.Image, request: CompareRequest
    ) -> Generator[StepFrame, None, LaneReport]:
        """One lane; the clock stands still while the consumer holds a frame."""
        model, seconds = self._model(request.task, lane.variant), 0.0
        steps = sample(
            model,
            picture,
            request.prompt,
            lane.steps,
            request.seed or 0,
            invert=request.invert,
            degradation=request.degradation,
        )
        with closing(steps):
            while True:
                begin = time.perf_counter()
                step = next(steps)
                seconds += time.perf_counter() - begin
                step.image.info[PARAMETERS] = self._parameters(model, lane, step, request)
                yield StepFrame(lane, step.i, step.n, step.t, step.nfe, seconds, step.image)
                if step.i + 1 == step.n:
                    return LaneReport(lane, step.image, step.nfe, seconds)

    def _parameters(self, model: Model, lane: Lane, step: Step, request: CompareRequest) -> str:
        """How a picture was made, as the JSON that goes into its PNG."""
        facts = {
            "task": request.task,
            "family": self._settings.family,
            "variant": lane.variant,
            "prompt": request.prompt,
            "seed": request.seed,
            "steps": lane.steps,
            "step": step.i + 1,
            "timestep": step.t,
            "nfe": step.nfe,
            "sampler": model.card.sampler_for(lane.steps),
            "guidance": model.card.guidance,
            "image_guidance": model.card.image_guidance,
            "invert": request.invert,
            "degradation": request.degradation,
        }
        return json.dumps(facts)

    def _lanes(self, request: CompareRequest) -> tuple[Lane, ...]:
        return (
            Lane("distilled", "distilled", request.distilled_steps),
            Lane("same", "undistilled", request.distilled_steps),
            Lane("full", "undistilled", request.undistilled_steps),
        )

    def _checked(self, request: CompareRequest) -> CompareRequest:
        """The request with every number inside its limits; the page's sliders can't vouch for an API caller."""
        task = request.task if request.task in TASKS else TASKS[0]
        few = min(MAX_DISTILLED_STEPS, self._model(task, "distilled").card.stages)
        many = min(self._settings.max_steps, self._model(task, "undistilled").card.stages, MAX_STEPS)
        seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        prompt = str(request.prompt or "")[:MAX_PROMPT]
        try:
            check_prompt(self._model(task, "distilled"), prompt)
        except PromptError as error:
            raise EngineError(str(error)) from error
        return replace(
            request,
            prompt=prompt,
            seed=_whole("seed", seed, 0, MAX_SEED),
            distilled_steps=_whole("number of distilled steps", request.distilled_steps, 1, few),
            undistilled_steps=_whole("number of undistilled steps", request.undistilled_steps, 1, many),
            invert=bool(request.invert),
            task=task,
            degradation=_number("degradation", request.degradation, 0.0, 1.0),
        )

    def _opened(self, image: str | Path) -> Image.Image:
        try:
            return open_image(image)
        except ImageError as error:
            raise EngineError(str(error)) from error

    def _condition(self, model: Model, picture: Image.Image, invert: bool, degradation: float) -> Image.Image:
        try:
            return to_pil(prepare(model, picture, invert, degradation)[0])
        except ImageError as error:
            raise EngineError(str(error)) from error

    def _model(self, task: str, variant: str) -> Model:
        """One of the loaded models.

        Raises:
            EngineError: this family has none for the task.
        """
        models = self._loaded()
        if (task, variant) not in models:
            raise EngineError(f"The family {self._settings.family!r} has no models for {str(task)[:20]!r} yet.")
        return models[task, variant]

    def _loaded(self) -> dict[tuple[str, str], Model]:
        """The models, loaded by whoever comes first."""
        with self._loading:
            if self._models is None:
                self._models = self._load()
            return self._models

    def _load_quietly(self) -> None:
        try:
            self._loaded()
        except EngineError as error:
            log.warning("%s", error)  # the page says it too, and the next visitor tries again

    def _load(self) -> dict[tuple[str, str], Model]:
        folder = self._settings.checkpoints / self._settings.family
        models: dict[tuple[str, str], Model] = {}
        try:
            for task in (TASKS[0], *(task for task in TASKS[1:] if (folder / task / VARIANTS[0]).is_dir())):
                for variant in VARIANTS:
                    shared = next(iter(models.values())).components if models else None
                    models[task, variant] = load(folder, task, variant, self._pick_device(), shared)
            self._count_and_warm_up(models)
        except FileNotFoundError as error:
            raise EngineError(
                f"The weights of the family {self._settings.family!r} are not all in {folder}: restore them with "
                f"“git checkout -- checkpoints”, or train them with “python -m cdd_core train” (see README)."
            ) from error
        except Exception as error:  # damaged files fail in every way there is
            log.exception("loading %s failed", folder)
            raise EngineError(
                f"The weights in {folder} are damaged or of another version: restore them with "
                f"“git checkout -- checkpoints”."
            ) from error
        return models

    def _count_and_warm_up(self, models: dict[tuple[str, str], Model]) -> None:
        """Count network evaluations from now on, and pay the costs of a first run before a visitor has to."""
        for unet in {id(m.denoiser.unet): m.denoiser.unet for m in models.values()}.values():
            unet.register_forward_pre_hook(self._count)
        ramp = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
        for model in models.values():
            for _ in sample(model, ramp, "".join(model.card.words[:1]), steps=1):
                pass

    def _count(self, *_: object) -> None:
        self._evaluations += 1

    def _pick_device(self) -> torch.device:
        if self._settings.device != "auto":
            return torch.device(self._settings.device)
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _whole(name: str, value: object, low: int, high: int) -> int:
    """A whole number inside its limits, from whatever a caller sent.

    Raises:
        EngineError: it isn't a number.
    """
    try:
        return min(max(int(float(str(value))), low), high)
    except (ValueError, OverflowError):
        raise EngineError(f"The {name} must be a whole number, not {str(value)[:20]!r}.") from None


def _number(name: str, value: object, low: float, high: float) -> float:
    """Likewise any number."""
    try:
        given = float(str(value))
    except ValueError:
        given = math.nan
    if math.isnan(given):
        raise EngineError(f"The {name} must be a number, not {str(value)[:20]!r}.")
    return min(max(given, low), high)
