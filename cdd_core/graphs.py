"""CUDA graphs: the hundreds of kernels of a network, recorded once and launched as one.

At one picture a fast GPU computes a network of Stable Diffusion's size sooner than a processor can ask for its kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

WARM_UP = 3  # calls before recording, in which kernels are chosen and blocks are compiled
SHAPES = 4  # of inputs that a network remembers; each holds memory


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A graph, the tensors that it reads and the result that it overwrites."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    result: object


class _Pool:
    """Memory that graphs share: one is replayed after the other, and what it gives is copied at once."""

    def __init__(self) -> None:
        self._handle: tuple[int, int] | None = None

    @property
    def handle(self) -> tuple[int, int]:
        if self._handle is None:
            self._handle = torch.cuda.graph_pool_handle()
        return self._handle


class Replayed:
    """Calls ``forward`` by replaying its kernels from the second call with a shape on; results are copies.

    With gradients, where the inputs aren't on one GPU, or where its memory is too small to record, it calls ``forward``
    itself. Everything but the values of the tensors is part of what is remembered; of many shapes those that were not
    asked for the longest are forgotten. Weights may change in place only, and one thread at a time may call.

    Args:
        forward: of a network; no step of it may wait for the GPU.
        pool: of all networks that are replayed by turns.
    """

    def __init__(self, forward: Callable[..., object], pool: _Pool) -> None:
        self.forward, self._pool = forward, pool
        self._known: dict[Hashable, _Recorded | None] = {}  # None: seen once; the last one is the youngest
        self._too_large: set[Hashable] = set()

    def __call__(self, *given: object, **named: object) -> object:
        leaves, structure = tree_flatten((given, named))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        devices = {tensor.device for tensor in tensors}
        if torch.is_grad_enabled() or len(devices) != 1 or not tensors[0].is_cuda:
            return self.forward(*given, **named)
        key = (structure, *(_looks(leaf) for leaf in leaves))
        if key not in self._known or key in self._too_large:
            self._remember(key, None)
            return self.forward(*given, **named)
        with torch.cuda.device(tensors[0].device):
            try:
                found = self._known[key] or self._record(given, named)
            except torch.OutOfMemoryError:
                self._too_large.add(key)
                return self.forward(*given, **named)
            self._remember(key, found)
            torch._foreach_copy_(found.inputs, tensors)
            found.graph.replay()
            return _copied(found.result)

    def _remember(self, key: Hashable, found: _Recorded | None) -> None:
        self._known.pop(key, None)
        self._known[key] = found
        while len(self._known) > SHAPES:
            del self._known[next(iter(self._known))]

    def _record(self, given: tuple[object, ...], named: dict[str, object]) -> _Recorded:
        kept = given, named = _copied((given, named))
        aside = torch.cuda.Stream()  # recording wants a stream of its own, and what it runs on warmed up there
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self.forward(*given, **named)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool.handle):
            result = self.forward(*given, **named)
        return _Recorded(graph, [leaf for leaf in tree_leaves(kept) if isinstance(leaf, Tensor)], result)


def replay_networks(*modules: nn.Module) -> None:
    """Have every U-Net, ControlNet and decoder inside ``modules`` replayed from its second call with a shape on.

    Call it once for all that draw by turns, when they are where they shall stay, and compiled if they are to be; a
    network that is replayed already stays as it is.
    """
    pool = _Pool()
    for module in modules:
        for network in module.modules():
            if isinstance(network, (AutoencoderKL, AutoencoderTiny)):
                network = network.decoder
            elif not isinstance(network, (UNet2DConditionModel, ControlNetModel)):
                continue
            if not isinstance(network.forward, Replayed):
                network.forward = Replayed(network.forward, pool)


def _copied(values: object) -> object:
    """The same with copies of all tensors."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, values)


def _looks(leaf: object) -> Hashable:
    """What recorded kernels depend on."""
    return (leaf.shape, leaf.stride(), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf
