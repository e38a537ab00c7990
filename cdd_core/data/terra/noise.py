"""Random fields: power-law noise on a torus, drawn from a generator, and read at any point."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def draw_spectrum(size: int, generator: torch.Generator) -> Tensor:
    """White complex noise, the half plane that a real inverse FFT takes: shape (size, size // 2 + 1)."""
    return torch.view_as_complex(torch.randn(size, size // 2 + 1, 2, generator=generator))


def power_law(spectrum: Tensor, beta: float) -> Tensor:
    """Shape white noise into a field whose amplitude falls as 1 / frequency^beta.

    Args:
        spectrum: complex, shape (*, N, N // 2 + 1), see :func:`draw_spectrum`.
        beta: 1 is rough, 2 is rolling hills.

    Returns:
        A periodic real field of shape (*, N, N), mean 0 and standard deviation 1 for each item.
    """
    size = spectrum.shape[-2]
    fy = torch.fft.fftfreq(size, device=spectrum.device)[:, None]
    fx = torch.fft.rfftfreq(size, device=spectrum.device)[None]
    radius = (fx.square() + fy.square()).sqrt().clamp_min(1 / size)
    gain = radius.pow(-beta)
    gain[0, 0] = 0
    field = torch.fft.irfft2(spectrum * gain, s=(size, size))
    return field / field.std((-2, -1), keepdim=True).clamp_min(1e-8)


def read_tile(tile: Tensor, x: Tensor, y: Tensor, period: float) -> Tensor:
    """Bilinear values of a periodic field.

    Args:
        tile: shape (B, C, N, N), one period.
        x, y: points in world units, shape (B, W, D) or (1, W, D).
        period: world units that one tile covers.

    Returns:
        shape (B, C, W, D).
    """
    batch, size = tile.shape[0], tile.shape[-1]
    # One column and row of wrap-around turn the bounded sampler into a periodic one.
    wrapped = F.pad(tile, (0, 1, 0, 1), mode="circular")
    scale = 2 / size
    gx = torch.remainder(x * (size / period), size) * scale - 1
    gy = torch.remainder(y * (size / period), size) * scale - 1
    grid = torch.stack(torch.broadcast_tensors(gx, gy), -1).expand(batch, -1, -1, -1)
    return F.grid_sample(wrapped, grid, mode="bilinear", padding_mode="border", align_corners=True)


def smoothstep(lo: float | Tensor, hi: float | Tensor, x: Tensor) -> Tensor:
    """0 below lo, 1 above hi, a cubic between."""
    k = ((x - lo) / (hi - lo)).clamp(0, 1)
    return k * k * (3 - 2 * k)


def mix(a: Tensor, b: Tensor | float, share: Tensor) -> Tensor:
    """``a`` where share is 0, ``b`` where it is 1; broadcasts, in one pass."""
    return torch.lerp(a, torch.as_tensor(b, dtype=a.dtype, device=a.device), share)


def texture_tiles(device: torch.device) -> Tensor:
    """Two periodic fields for the grain of the ground, fine and very fine: (2, N, N), the same in every world."""
    generator = torch.Generator().manual_seed(20231001)
    spectra = torch.stack([draw_spectrum(192, generator) for _ in range(2)])
    return torch.stack([power_law(spectra[0], 1.0), power_law(spectra[1], 0.75)]).clamp(-2.5, 2.5).to(device)
