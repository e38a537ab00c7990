"""The models that the engine draws with, loaded once and counted, and the probe that reads depth off pictures."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from app.hand import Hand
from app.schema import RIVALS, SAMPLERS, TASKS, EngineError, Rival
from app.settings import Settings
from cdd_core.cards import variants_in
from cdd_core.estimator import DepthEstimator, load_estimator
from cdd_core.evaluation.probe import Probe, load_probe
from cdd_core.families import ESTIMATOR, SAFETY, remedy, wants_safety
from cdd_core.graphs import replay_networks
from cdd_core.inference import sample
from cdd_core.loading import Model, drawing_device, drawing_dtype, load
from cdd_core.offload import Turns
from cdd_core.safety import SafetyChecker, load_safety_checker
from cdd_core.speed import compile_blocks

log = logging.getLogger(__name__)

AGAIN_SECONDS = 10.0  # after which loading is tried again, if it failed; until then every visitor is told at once
STUDENTS = ("distilled", "lcm")  # what may stand in the distilled lane; the first that is here does


def said_once(every: Iterable[str]) -> str:
    """What several say of their data, but for numbers, once and with the largest; parts stand between semicolons."""
    parts: dict[str, str] = {}
    for part in (part for said in every for part in said.split("; ") if part):
        words = re.sub(r"[\d,]+", "", part)
        parts[words] = max(parts.get(words, part), part, key=_first_number)
    return "; ".join(parts.values())


def _first_number(part: str) -> int:
    found = re.search(r"\d[\d,]*", part)
    return int(found[0].replace(",", "")) if found else 0


def _make_fast(models: Iterable[Model], replay: bool) -> None:
    """Compiled blocks, and on a GPU where networks stay in place, CUDA graphs of them."""
    every = [part for m in models for part in (m.denoiser, m.components.vae, m.components.preview) if part is not None]
    for network in every:
        compile_blocks(network)
    if replay:
        replay_networks(*every)


def chosen_family(settings: Settings) -> tuple[str, str]:
    """Which family to load, and why if nobody asked for it."""
    if settings.family != "auto":
        return settings.family, ""
    if not torch.cuda.is_available():
        return "pocket", "because there is no GPU"
    if settings.device not in ("auto", "cuda"):
        return "pocket", f"because it is to run on the {settings.device.upper()}"
    if student_of(settings.checkpoints / "sd15" / TASKS[0]) is None:
        return "pocket", "because sd15 isn't here, or not all of it: python -m cdd_core fetch --family sd15"
    return "sd15", "because there is a GPU"


def student_of(home: Path) -> str | None:
    """What can stand in the distilled lane of a task, if all that the task needs is here."""
    here = variants_in(home)
    return next((name for name in STUDENTS if name in here and "undistilled" in here), None)


class Shelf:
    """All models of one family, by task and variant; whoever comes first loads them.

    Args:
        settings: where the weights are and where to run.
        hand: loads them, if the processor is to draw; see there.
    """

    def __init__(self, settings: Settings, hand: Hand) -> None:
        self._settings = settings
        self._hand = hand
        self._loading = threading.Lock()
        self._models: dict[tuple[str, str], Model] | None = None
        self._failed: tuple[float, str] | None = None  # when, and why
        self.family, self.why = chosen_family(settings)
        self.probe: Probe | None = None
        self.estimator: DepthEstimator | None = None
        self.safety: SafetyChecker | None = None
        self.evaluations = 0

    @property
    def ready(self) -> bool:
        """The models are loaded."""
        return self._models is not None

    def model(self, task: str, variant: str) -> Model:
        """One of them.

        Raises:
            EngineError: this family has none for the task, or the weights can't be loaded.
        """
        models = self._loaded()
        if (task, variant) not in models:
            raise EngineError(f"The family {self.family!r} has no models for {str(task)[:20]!r} yet.")
        return models[task, variant]

    def tasks(self) -> tuple[str, ...]:
        """What can be drawn; the first task is always there."""
        models = self._loaded()
        return tuple(task for task in TASKS if (task, "undistilled") in models)

    def data(self) -> str:
        """What all models learnt from, as far as their cards tell."""
        return said_once(str(model.card.provenance.get("data", "")) for model in self._loaded().values())

    def sizes(self, task: str) -> tuple[int, ...]:
        """Pixels a side that all of a task's models can draw, smallest first."""
        every = [set(model.sizes) for (of, _), model in self._loaded().items() if of == task]
        return tuple(sorted(set.intersection(*every)))

    def wordless(self, task: str) -> bool:
        """The models of a task learnt no words: an upscaler that is no ControlNet on a model of texts."""
        return task == "upscale" and self.model(task, "undistilled").card.adapter == "concat"

    def student(self, task: str) -> str:
        """The variant that stands in the distilled lane."""
        models = self._loaded()
        return next((variant for variant in STUDENTS if (task, variant) in models), STUDENTS[0])

    def rivals(self, task: str) -> tuple[Rival, ...]:
        """Samplers of the undistilled model, and other students that are here beside the one in the distilled lane."""
        models, student = self._loaded(), self.student(task)
        return tuple(each for each in RIVALS if each in SAMPLERS or (task, each) in models and each != student)

    def _loaded(self) -> dict[tuple[str, str], Model]:
        if self._models is not None:
            return self._models
        with self._loading:
            if self._failed is not None and time.monotonic() - self._failed[0] < AGAIN_SECONDS:
                raise EngineError(self._failed[1])
            if self._models is None:
                try:
                    device = drawing_device(self._settings.device)
                except ValueError as error:
                    raise EngineError(str(error)) from error
                try:
                    # On ZeroGPU models reach the device in the thread that imported its library alone.
                    self._models = self._hand.do(self._load, device) if device.type == "cpu" else self._load(device)
                except EngineError as error:
                    self._failed = (time.monotonic(), str(error))
                    raise
            return self._models

    def _load(self, device: torch.device) -> dict[tuple[str, str], Model]:
        folder = self._settings.checkpoints / self.family
        models: dict[tuple[str, str], Model] = {}
        turns = Turns(device) if self._settings.offload else None
        dtype, together = drawing_dtype(folder, device), {}
        aside = torch.device("cpu") if turns else device  # for what takes no turns
        try:
            if self._settings.safety_checker:
                self.safety = self._load_safety(folder, aside)
            for task in TASKS:
                student = student_of(folder / task)
                if student is None and task != TASKS[0]:
                    continue
                here = [name for name in STUDENTS if name in variants_in(folder / task)]
                for variant in dict.fromkeys((student or STUDENTS[0], "undistilled", *here)):
                    shared = next(iter(models.values())).components if models else None
                    models[task, variant] = load(folder, task, variant, device, shared, dtype, turns, together)
            if self._settings.compile:
                _make_fast(models.values(), replay=device.type == "cuda" and turns is None)
            if (folder / "probe" / "A").is_dir():
                self.probe = load_probe(folder / "probe" / "A")
            if (folder / ESTIMATOR).is_dir():
                self.estimator = load_estimator(folder / ESTIMATOR, aside)
            self._count_and_warm_up(models)
        except EngineError:
            raise
        except torch.OutOfMemoryError as error:
            log.warning("%s doesn't fit onto %s: %s", folder, device, error)
            raise EngineError(
                f"The GPU has too little memory for the family {self.family!r}: start the demo with --offload, which "
                f"keeps one network on it at a time, or with --family pocket."
            ) from error
        except FileNotFoundError as error:
            log.warning("%s is not complete: %s", folder, error)
            raise EngineError(
                f"The weights of the family {self.family!r} are not all in their place: restore them with "
                f"“git checkout -- checkpoints”, or {remedy(folder)}."
            ) from error
        except Exception as error:  # damaged files fail in every way there is
            log.exception("loading %s failed", folder)
            raise EngineError(
                f"The weights of the family {self.family!r} are damaged or of another version: restore them with "
                f"“git checkout -- checkpoints”."
            ) from error
        return models

    def _load_safety(self, folder: Path, device: torch.device) -> SafetyChecker | None:
        """The safety checker; None if the family needs none."""
        if (folder / SAFETY).is_dir():
            return load_safety_checker(folder / SAFETY, device)
        if wants_safety(folder):
            raise EngineError(
                f"The files of the safety checker of the family {self.family!r} are not here: {remedy(folder)}; or "
                f"start the demo with --no-safety-checker."
            )
        return None

    def _count_and_warm_up(self, models: dict[tuple[str, str], Model]) -> None:
        """Count network evaluations from now on, and pay the costs of a first run before a visitor has to."""
        for unet in {id(m.denoiser.unet): m.denoiser.unet for m in models.values()}.values():
            unet.register_forward_pre_hook(self._count)
        if os.environ.get("SPACES_ZERO_GPU"):
            return  # there is no device yet, only something that pretends to be one
        ramp = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
        for model in models.values():
            for _ in sample(model, ramp, "".join(model.card.words[:1]), steps=1):
                pass

    def _count(self, *_: object) -> None:
        self.evaluations += 1
