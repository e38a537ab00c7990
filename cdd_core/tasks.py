"""The tasks: how an upload becomes a condition, and how the condition enters the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from kornia.filters import canny, sobel
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """One row of the catalogue.

    Attributes:
        name: as on the command line.
        adapter: how the condition enters the network, see ``adapters``.
        takes: what a person uploads, in words.
        text_guidance, image_guidance: of the undistilled pocket model, measured to be best.
    """

    name: str
    adapter: str
    takes: str
    text_guidance: float = 1.0
    image_guidance: float = 1.0


POCKET_GAMMA = 0.5  # of the depth condition, see below
UPSCALE = 4  # how many times larger super-resolution makes a picture

TASKS = {
    "depth": Task("depth", "controlnet", "a depth map, near bright"),
    "edit": Task("edit", "concat", "a photo, and what to change about it", 1.5, 1.5),
    "upscale": Task("upscale", "concat", "a small or blurred photo"),
    "canny": Task("canny", "controlnet", "a photo whose outlines are kept"),
    "softedge": Task("softedge", "controlnet", "a photo whose soft edges are kept"),
}
# Thresholds of a gradient, for pictures in [0, 1], which find about what OpenCV's customary 100 and 200 do: of eight
# photographs a tenth of all pixels, and 8 %.
CANNY = (0.1, 0.2)


def depth_condition(disparity: Tensor, gamma: float) -> Tensor:
    """The picture a depth ControlNet looks at.

    The square root (gamma 0.5, the pocket family) gives far ranges, whose disparity is a few grey levels, as much
    room as the foreground; public Stable Diffusion ControlNets were trained on plain disparity (gamma 1).

    Args:
        disparity: in [0, 1], near is 1, shape (B, 1, S, S).
        gamma: exponent, from the model's card.

    Returns:
        shape (B, 3, S, S).
    """
    return disparity.clamp(0, 1).pow(gamma).expand(-1, 3, -1, -1)


def outlines(picture: Tensor) -> Tensor:
    """White lines on black where Canny (1986) finds edges, as the public canny ControlNets were trained on.

    Args:
        picture: in [0, 1], shape (B, 3, S, S).

    Returns:
        0 or 1, the same shape.
    """
    return canny(picture, *CANNY)[1].expand(-1, 3, -1, -1)


def soft_edges(picture: Tensor) -> Tensor:
    """Strength of the gradient, the strongest white; a stand-in for the networks that soft-edge models were trained on.

    Args:
        picture: in [0, 1], shape (B, 3, S, S).

    Returns:
        in [0, 1], the same shape.
    """
    strength = sobel(picture.mean(1, keepdim=True), eps=1e-12)
    return (strength / strength.amax((1, 2, 3), keepdim=True).clamp_min(1e-2)).expand(-1, 3, -1, -1)


def drawn_lines(picture: Tensor) -> Tensor:
    """A picture that shows lines already: white on black, whichever way round it came.

    Args:
        picture: in [0, 1], shape (B, 3, S, S).

    Returns:
        grey, the same shape.
    """
    grey = picture.mean(1, keepdim=True)
    on_white = grey.mean((1, 2, 3), keepdim=True) > 0.5  # lines are where there is less
    return torch.where(on_white, 1 - grey, grey).expand(-1, 3, -1, -1)


EDGES: dict[str, Callable[[Tensor], Tensor]] = {"canny": outlines, "softedge": soft_edges}
