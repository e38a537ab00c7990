"""An invisible mark in every picture drawn here, so that a copy that lost its notes can still be told.

Spread spectrum (Cox et al. 1997), one bit: a fixed pattern, repeated every 32 pixels, is added, strongly where a
picture is rough and hardly where it is smooth, so that the picture hides it. The mark survives JPEG, noise, small
changes of colour and any cut; it doesn't survive resizing, and anybody who reads this file can take it out. The
libraries for the purpose need pictures of 256 pixels, or weights of their own.
"""

from __future__ import annotations

import numpy as np
import torch
from kornia.filters import box_blur
from PIL import Image

PERIOD = 32
BAND = (3.0, 9.0)  # cycles a period: coarse enough for JPEG, too fine to be seen as patches
LEAST, SHARE, MOST = 0.5, 0.25, 1.5  # strength in grey levels: of a smooth sky; of the local roughness; of anything
WINDOW = 5  # pixels a side over which roughness is taken
KEY = 20_240_617
CERTAIN = 6.0  # standard deviations; an unmarked picture reaches them once in a million


def mark(image: Image.Image) -> Image.Image:
    """A copy with the mark in it.

    Args:
        image: RGB.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    height, width = pixels.shape[:2]
    tiles = (-(-height // PERIOD), -(-width // PERIOD))
    strength = (LEAST + SHARE * _roughness(pixels.mean(2))).clip(LEAST, MOST)
    added = strength * np.tile(_pattern(), tiles)[:height, :width]
    return Image.fromarray((pixels + added[..., None]).round().clip(0, 255).astype(np.uint8))


def certainty(image: Image.Image) -> float:
    """How far the pattern stands out of what pictures hold by chance, in standard deviations; see :data:`CERTAIN`.

    Args:
        image: any mode, at its original scale; 0 if smaller than the pattern, or empty.
    """
    grey = np.asarray(image.convert("RGB"), dtype=np.float64).mean(2)
    rows, columns = (side // PERIOD for side in grey.shape)
    if rows == 0 or columns == 0:
        return 0.0
    blocks = grey[: rows * PERIOD, : columns * PERIOD].reshape(rows, PERIOD, columns, PERIOD)
    blocks = blocks.transpose(0, 2, 1, 3).reshape(-1, PERIOD, PERIOD)
    # Whitened: each frequency of each block counts by its phase alone, so that edges can't outvote the mark.
    spectra = np.fft.fft2(blocks - blocks.mean((1, 2), keepdims=True))
    spectra /= np.abs(spectra) + 1e-9
    # Correlated with the pattern at every shift at once, since a cut may begin anywhere.
    match = np.fft.ifft2(spectra.sum(0) * np.conj(np.fft.fft2(_pattern()))).real
    spread = match.std()
    return float((match.max() - match.mean()) / spread) if spread > 0 else 0.0


def _roughness(grey: np.ndarray) -> np.ndarray:
    """Standard deviation around every pixel."""
    planes = torch.from_numpy(np.stack([grey, grey**2]))[None]
    mean, square = box_blur(planes, (WINDOW, WINDOW), border_type="replicate")[0].numpy()
    return np.sqrt(np.maximum(square - mean**2, 0))


def _pattern() -> np.ndarray:
    """Noise of one band, of unit variance, (PERIOD, PERIOD)."""
    noise = np.fft.fft2(np.random.default_rng(KEY).standard_normal((PERIOD, PERIOD)))
    cycles = np.fft.fftfreq(PERIOD, 1 / PERIOD)
    radius = np.hypot(cycles[:, None], cycles)
    kept = np.fft.ifft2(noise * ((radius >= BAND[0]) & (radius <= BAND[1]))).real
    return kept / kept.std()
