"""Which attention kernel: PyTorch's own, or xformers' where it is installed and faster on this card."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from diffusers import ModelMixin
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.utils import is_xformers_available

ROUNDS = 3


def can_choose(device: torch.device) -> bool:
    """There is more than one kernel: xformers' needs a CUDA device."""
    return device.type == "cuda" and is_xformers_available()


def keep_faster(networks: Sequence[ModelMixin], run: Callable[[], object]) -> str:
    """Time PyTorch's kernel and xformers' by turns, and leave the networks with the faster.

    Args:
        networks: all that take part in ``run``.
        run: calls them, on inputs of the usual size, and returns when the device is done.

    Returns:
        ``sdpa`` or ``xformers``.
    """

    def switch(xformers: bool) -> None:
        for network in networks:
            if xformers:
                network.enable_xformers_memory_efficient_attention()
            else:
                network.set_attn_processor(AttnProcessor2_0())  # the default one is slower, despite its name

    def seconds(xformers: bool) -> float:
        switch(xformers)
        run()  # the first call of a kernel pays for its choice
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    try:
        taken = [(seconds(False), seconds(True)) for _ in range(ROUNDS)]
        faster = min(other for _, other in taken) < min(own for own, _ in taken)
    except (NotImplementedError, RuntimeError, ValueError):  # built for another torch, card or head size
        faster = False
    switch(faster)
    return "xformers" if faster else "sdpa"
