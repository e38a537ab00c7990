"""Pictures as they come back from the world: blurred, shrunk, noisy, compressed, twice (Real-ESRGAN, Wang et al. 2021).

The order is that paper's (arXiv 2107.10833, section 3), the ranges follow it, for pictures that are small already:
kernels have 13 pixels instead of 21. Filters and JPEG are kornia's. ``strength`` shrinks the ranges towards doing
nothing, so that 0 is plain bicubic shrinking and 1 the whole recipe; the cutoff of a sinc stays as it is.
"""

from __future__ import annotations

import math

import torch
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import filter2d
from torch import Tensor
from torch.nn import functional as F

SIDE = 13  # of blur kernels; a wider one would be wider than many of the small pictures it is laid over
RESIZE_MODES = ("bilinear", "bicubic", "area")


class _Dice:
    """Named draws from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def chance(self, probability: float) -> bool:
        return self.between(0.0, 1.0) < probability

    def choice(self, options: tuple[str, ...]) -> str:
        return options[int(torch.randint(len(options), (), generator=self.generator))]

    def normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator)

    def counts(self, expected: Tensor) -> Tensor:
        return torch.poisson(expected, generator=self.generator)


def degrade(picture: Tensor, scale: int, strength: float, generator: torch.Generator) -> Tensor:
    """One picture, small and damaged.

    Args:
        picture: in [0, 1], shape (3, H, W), on the CPU; H and W multiples of ``scale``.
        scale: how many times smaller the result is.
        strength: 0 only shrinks, 1 is the whole recipe.
        generator: all randomness; the same generator state, the same result.

    Returns:
        In [0, 1], shape (3, H / scale, W / scale).

    Raises:
        ValueError: a strength outside [0, 1], or a side that the scale doesn't divide.
    """
    height, width = picture.shape[-2:]
    if not 0 <= strength <= 1:
        raise ValueError(f"the strength of the degradation is between 0 and 1, not {strength}")
    if height % scale or width % scale:
        raise ValueError(f"a picture of {width} x {height} pixels can't be made {scale} times smaller")
    small = (height // scale, width // scale)
    if strength == 0:
        return _resized(picture[None], small, "bicubic")[0]
    dice = _Dice(generator)
    x = _blurred(picture[None], dice, 3.0 * strength)
    x = _resized(x, _size(dice, (height, width), (0.15, 1.5), strength), dice.choice(RESIZE_MODES))
    x = _compressed(_noisy(x, dice, 30 / 255 * strength), dice, 95 - 65 * strength)
    if dice.chance(0.8):
        x = _blurred(x, dice, 1.5 * strength)
    x = _resized(x, _size(dice, small, (0.3, 1.2), strength), dice.choice(RESIZE_MODES))
    x = _noisy(x, dice, 25 / 255 * strength)
    ringing = dice.chance(0.8 * strength)
    if dice.chance(0.5):
        x = _resized(x, small, dice.choice(RESIZE_MODES))
        x = _ringing(x, dice) if ringing else x
        x = _compressed(x, dice, 95 - 65 * strength)
    else:
        x = _compressed(x, dice, 95 - 65 * strength)
        x = _resized(x, small, dice.choice(RESIZE_MODES))
        x = _ringing(x, dice) if ringing else x
    return x[0]


def enlarged(small: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic enlargement, what the super-resolution models are shown; (B, 3, h, w) to (B, 3, *size)."""
    return _resized(small, size, "bicubic")


def _size(dice: _Dice, size: tuple[int, int], span: tuple[float, float], strength: float) -> tuple[int, int]:
    """A random size: smaller in seven cases of ten, larger in two, unchanged in one."""
    kind = dice.between(0.0, 1.0)
    low, high = (1 + strength * (edge - 1) for edge in span)
    factor = dice.between(1.0, high) if kind < 0.2 else dice.between(low, 1.0) if kind < 0.9 else 1.0
    height, width = (max(SIDE + 3, round(side * factor)) for side in size)
    return height, width


def _resized(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if mode == "area":
        return F.interpolate(x, size=size, mode="area")
    return F.interpolate(x, size=size, mode=mode, antialias=True, align_corners=False).clamp(0, 1)


def _blurred(x: Tensor, dice: _Dice, most: float) -> Tensor:
    """A Gaussian, in half of the cases longer one way than the other, or every tenth time a sinc."""
    if dice.chance(0.1):
        return _ringing(x, dice)
    first = dice.between(0.2, max(0.2, most))
    second = dice.between(0.2, max(0.2, most)) if dice.chance(0.5) else first
    angle = dice.between(0.0, math.pi)
    v, u = _offsets()
    along, across = math.cos(angle) * u + math.sin(angle) * v, math.cos(angle) * v - math.sin(angle) * u
    kernel = torch.exp(-0.5 * ((along / first).square() + (across / second).square()))
    return filter2d(x, (kernel / kernel.sum())[None])


def _ringing(x: Tensor, dice: _Dice) -> Tensor:
    """The ideal low-pass filter, cut to a square: the halos of sharpening and of careless resizing."""
    cutoff = dice.between(math.pi / 3, math.pi)
    v, u = _offsets()
    radius = (u.square() + v.square()).sqrt().clamp_min(1e-6)
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[SIDE // 2, SIDE // 2] = cutoff**2 / (4 * math.pi)
    return filter2d(x, (kernel / kernel.sum())[None]).clamp(0, 1)


def _offsets() -> tuple[Tensor, Tensor]:
    axis = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    return torch.meshgrid(axis, axis, indexing="ij")


def _noisy(x: Tensor, dice: _Dice, most: float) -> Tensor:
    """Gaussian noise, or that of counted photons, which grows with the light (Poisson); coloured or grey."""
    spread = dice.between(0.0, most)
    counted, grey = dice.chance(0.5), dice.chance(0.4)
    light = (x.mean(1, keepdim=True) if grey else x).clamp_min(0)
    if not counted:
        return (x + spread * dice.normal(light)).clamp(0, 1)
    photons = 0.5 / max(spread, 1e-3) ** 2  # in a white pixel; a grey one deviates by the spread
    return (x + dice.counts(light * photons) / photons - light).clamp(0, 1)


def _compressed(x: Tensor, dice: _Dice, worst: float) -> Tensor:
    return jpeg_codec_differentiable(x, torch.tensor([dice.between(worst, 95.0)])).clamp(0, 1)
