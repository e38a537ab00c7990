"""What happens to depth maps on their way to us, so that maps from elsewhere work too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

DRAWS = 9  # uniform numbers that one augmented map takes
CLEAN_SHARE = 0.35


def augment_depth(condition: Tensor, draws: Tensor) -> Tensor:
    """Blur, quantise, bend and scale a batch of conditions; never invert.

    Args:
        condition: in [0, 1], shape (B, 1, S, S).
        draws: uniform in [0, 1], shape (B, DRAWS).

    Returns:
        Same shape; a share of the rows is left as it was.
    """
    u = draws[:, :, None, None, None].unbind(1)
    bent = condition.clamp_min(0).pow(torch.exp2(2.0 * u[0] - 1.0))  # gamma between 1/2 and 2
    changed = torch.where(u[1] < 0.5, bent, condition)
    changed = torch.where(u[2] < 0.4, gaussian_blur(changed, 0.5 + 2.0 * draws[:, 3]), changed)
    scaled = changed * (0.7 + 0.3 * u[4])
    changed = torch.where(u[5] < 0.4, scaled, changed)
    levels = torch.exp2(4.0 + 4.0 * u[6])  # 16 to 256 grey levels
    changed = torch.where(u[7] < 0.5, (changed * levels).round() / levels, changed)
    return torch.where(u[8] < CLEAN_SHARE, condition, changed)


def gaussian_blur(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian with its own sigma (pixels) for each picture; pictures (B, 1, S, S), sigma (B,)."""
    radius = 6
    offsets = torch.arange(-radius, radius + 1, device=pictures.device, dtype=pictures.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]).square())
    kernel = kernel / kernel.sum(1, keepdim=True)
    rows = pictures.transpose(0, 1)  # one group for each picture
    across, down = kernel[:, None, None, :], kernel[:, None, :, None]
    rows = F.conv2d(F.pad(rows, (radius, radius, 0, 0), mode="replicate"), across, groups=len(kernel))
    rows = F.conv2d(F.pad(rows, (0, 0, radius, radius), mode="replicate"), down, groups=len(kernel))
    return rows.transpose(0, 1)
