"""The models that the engine draws with, loaded once and counted, and the probe that reads depth off pictures."""

from __future__ import annotations

import logging
import threading

import numpy as np
import torch

from app.schema import TASKS, EngineError
from app.settings import Settings
from cdd_core.evaluation.probe import Probe, load_probe
from cdd_core.inference import Model, load, sample

log = logging.getLogger(__name__)

VARIANTS = ("distilled", "undistilled")


class Shelf:
    """All models of one family, by task and variant; whoever comes first loads them.

    Args:
        settings: where the weights are and where to run.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loading = threading.Lock()
        self._models: dict[tuple[str, str], Model] | None = None
        self.probe: Probe | None = None
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
            raise EngineError(f"The family {self._settings.family!r} has no models for {str(task)[:20]!r} yet.")
        return models[task, variant]

    def tasks(self) -> tuple[str, ...]:
        """What can be drawn; the first task is always there."""
        models = self._loaded()
        return tuple(task for task in TASKS if (task, VARIANTS[0]) in models)

    def _loaded(self) -> dict[tuple[str, str], Model]:
        with self._loading:
            if self._models is None:
                self._models = self._load()
            return self._models

    def _load(self) -> dict[tuple[str, str], Model]:
        folder = self._settings.checkpoints / self._settings.family
        models: dict[tuple[str, str], Model] = {}
        try:
            for task in (TASKS[0], *(task for task in TASKS[1:] if (folder / task / VARIANTS[0]).is_dir())):
                for variant in VARIANTS:
                    shared = next(iter(models.values())).components if models else None
                    models[task, variant] = load(folder, task, variant, self._pick_device(), shared)
            if (folder / "probe" / "A").is_dir():
                self.probe = load_probe(folder / "probe" / "A")
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
        self.evaluations += 1

    def _pick_device(self) -> torch.device:
        if self._settings.device != "auto":
            return torch.device(self._settings.device)
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
