"""For small cards: the networks of a family take turns on the device, and wait in ordinary memory."""

from __future__ import annotations

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from torch import nn


class Turns:
    """Brings a network to the device when it is called, after sending back the one that was there.

    A denoiser moves as a whole, U-Net and adapter together, so that a run moves nothing between its steps; decoding
    every step does, unless the family has a small preview decoder, which stays on the device.

    Args:
        device: where networks compute. One object serves all models of a family.
    """

    def __init__(self, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self._here: nn.Module | None = None
        self._hook = ModelHook()  # accelerate calls it before a network, diffusers before an autoencoder's halves
        self._hook.pre_forward = self._admit

    def add(self, network: nn.Module) -> None:
        """Let a network take part; one that does already isn't asked twice."""
        if getattr(network, "_hf_hook", None) is not self._hook:
            add_hook_to_module(network, self._hook)

    def take(self, network: nn.Module) -> None:
        """It is this network's turn."""
        if network is not self._here:
            if self._here is not None:
                self._here.to("cpu")
            self._here = network.to(self.device)

    def _admit(self, module: nn.Module, *args: object, **kwargs: object) -> tuple[object, object]:
        self.take(module)
        return send_to_device(args, self.device), send_to_device(kwargs, self.device)
