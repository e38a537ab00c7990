"""The tasks: how an upload becomes a condition, and how the condition enters the network."""

from __future__ import annotations

from dataclasses import dataclass

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
    "edit": Task("edit", "concat", "a photo, and what to change about it"),
    "upscale": Task("upscale", "concat", "a small or blurred photo"),
}


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
