"""CUDA graphs: the hundreds of kernels of a network, recorded once and launched as one.

At one picture a fast GPU computes a network of Stable Diffusion's size sooner than a processor can ask for its kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

WARM_UP = 3  # calls before recording, in which kernels are chosen and blocks are compiled
SHAPES = 4  # of inputs that a network remembers; each holds the memory of its activations


@dataclass(frozen=True)
class _Recorded:
    """A graph, the tensors that it reads and the result that it overwrites."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    result: object


class Replayed:
    """Calls ``forward`` by replaying its kernels, once it has seen the shapes of the inputs; results are copies.

    With gradients, or where the inputs aren't on a GPU, it calls ``forward`` itself. Everything but the values of the
    tensors is part of what is remembered; of many shapes the oldest are forgotten. Weights may change in place only.

    Args:
        forward: of a network; no step of it may wait for the GPU.
    """

    def __init__(self, forward: Callable[..., object]) -> None:
        self.forward = forward
        self._recorded: dict[Hashable, _Recorded] = {}

    def __call__(self, *given: object, **named: object) -> object:
        leaves, structure = tree_flatten((given, named))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if torch.is_grad_enabled() or not tensors or not all(tensor.is_cuda for tensor in tensors):
            return self.forward(*given, **named)
        key = (structure, *(_looks(leaf) for leaf in leaves))
        if key not in self._recorded:
            while len(self._recorded) >= SHAPES:
                del self._recorded[next(iter(self._recorded))]
            self._recorded[key] = self._record(given, named)
        found = self._recorded[key]
        torch._foreach_copy_(found.inputs, tensors)
        found.graph.replay()
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, found.result)

    def _record(self, given: tuple[object, ...], named: dict[str, object]) -> _Recorded:
        kept = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, (given, named))
        given, named = kept
        aside = torch.cuda.Stream()  # recording wants a stream of its own, and what it runs on warmed up there
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self.forward(*given, **named)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self.forward(*given, **named)
        return _Recorded(graph, [leaf for leaf in tree_flatten(kept)[0] if isinstance(leaf, Tensor)], result)


def replay_networks(*modules: nn.Module) -> None:
    """Have every U-Net, ControlNet and decoder inside ``modules`` replayed from its second call with a shape on.

    Call it when the networks are where they shall stay, and compiled if they are to be; a network that is replayed
    already stays as it is.
    """
    for module in modules:
        for network in module.modules():
            if isinstance(network, (AutoencoderKL, AutoencoderTiny)):
                network = network.decoder
            elif not isinstance(network, (UNet2DConditionModel, ControlNetModel)):
                continue
            if not isinstance(network.forward, Replayed):
                network.forward = Replayed(network.forward)


def _looks(leaf: object) -> Hashable:
    """What recorded kernels depend on."""
    return (leaf.shape, leaf.stride(), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf
