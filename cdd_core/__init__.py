"""Conditional diffusion distillation: few-step conditional image generation on diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdd_core.images import ImageError
    from cdd_core.inference import Step, sample
    from cdd_core.loading import Model, load

__all__ = ["ImageError", "Model", "Step", "load", "sample"]

_HOME = {"ImageError": "images", "Model": "loading", "Step": "inference", "load": "loading", "sample": "inference"}


def __getattr__(name: str) -> object:
    """Import on first use, so that ``python -m cdd_core --help`` needn't wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"cdd_core has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"cdd_core.{_HOME[name]}"), name)
