"""Networks cut into shards, one to a process: what accelerate's config calls FSDP (Zhao et al. 2023, arXiv 2304.11277).

Cut is whatever learns or follows what learns, with its gradients and moments: most of a training's memory. Networks
that never move stay whole in every process, in half precision, and so do small learners like a discriminator, whose
gradients are averaged by hand. States on disk are always whole: as many processes as one likes go on with them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from cdd_core.config import LoopConfig
from cdd_core.speed import diffusion_networks, mixed_precision

SWITCH = "ACCELERATE_USE_FSDP"
Update = Callable[[list[Tensor], list[Tensor], "Tensor | int"], None]
OTHERS = ("DEEPSPEED", "MEGATRON_LM")


def shards_wanted(config: LoopConfig, device: torch.device) -> bool:
    """Whether accelerate's config asks for shards. How they are cut, it doesn't say: see :class:`Shards`.

    Args:
        config: of the training.
        device: that it computes on.

    Raises:
        ValueError: it asks for a kind that isn't supported, or they don't go together with the rest.
    """
    for name in OTHERS:
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            raise ValueError(
                f"accelerate is set to {name}, which isn't supported; choose FSDP, which cuts networks into shards as "
                f"well (accelerate launch --use_fsdp), or plain multi-GPU (accelerate launch --multi_gpu)"
            )
    if not parse_flag_from_env(SWITCH):
        return False
    if mixed_precision(config.precision, device) == "fp16":
        raise ValueError("networks in shards are trained in bf16 or full precision; choose --loop.precision bf16 or no")
    if config.optimizer != "adamw":
        raise ValueError(f"{config.optimizer} doesn't know networks in shards; choose --loop.optimizer adamw")
    return True


class Copies:
    """Each process holds every network: plain multi-GPU, or one process alone.

    Args:
        accelerator: knows the processes.
        averaged: the student's average.
    """

    def __init__(self, accelerator: Accelerator, averaged: nn.Module) -> None:
        self.accelerator, self.averaged = accelerator, averaged

    def prepare(self, stage: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, AcceleratedOptimizer]:
        """Wrap both for as many processes as there are."""
        return self.accelerator.prepare(stage, optimizer)

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Of what the way back didn't average: nothing, here."""

    def agreed(self, due: bool, seldom: bool) -> bool:
        """Whether a state is to be saved now, the same in every process that has a part in it.

        Args:
            due: it is time, by this process's clock.
            seldom: this step is one of those after which processes may wait for each other.
        """
        return due

    @contextmanager
    def whole_average(self) -> Iterator[nn.Module | None]:
        """The averaged student in one piece on the main process, None on the others; all of them have to ask."""
        yield self.averaged if self.accelerator.is_main_process else None


class Shards(Copies):
    """Each process holds a part of whatever learns, or follows what learns.

    Args:
        accelerator: knows the processes.
        averaged: the student's average.
        student, twins: what is averaged, and other copies of it.
        whole: of the training, for other networks that learn.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        averaged: nn.Module,
        student: nn.Module,
        twins: list[nn.Module],
        whole: nn.Module,
    ) -> None:
        super().__init__(accelerator, averaged)
        self.model = copy.deepcopy(averaged).cpu() if accelerator.is_main_process else None
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        # What low-rank changes apply to is held once by the student and its copies, and stays so.
        still = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
        for twin in (averaged, *twins):
            for network in diffusion_networks(twin):
                _cut(network, mesh, {p for name, p in twin.named_parameters() if name in still})
        for network in diffusion_networks(whole):
            if any(p.requires_grad for p in network.parameters()):
                _cut(network, mesh, {p for p in network.parameters() if not p.requires_grad})

    def prepare(self, stage: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, AcceleratedOptimizer]:
        wrapped = self.accelerator.prepare_model(stage, device_placement=False, evaluation_mode=True)  # in no copies
        return wrapped, self.accelerator.prepare(optimizer)

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is not None and not isinstance(parameter.grad, DTensor):
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")

    def agreed(self, due: bool, seldom: bool) -> bool:
        return seldom and bool(self.accelerator.gather(torch.tensor([due], device=self.accelerator.device)).any())

    @contextmanager
    def whole_average(self) -> Iterator[nn.Module | None]:
        own = {} if self.model is None else self.model.state_dict()
        for name, value in self.averaged.state_dict().items():
            together = whole(value)  # one after the other, so that not all are on the card at once
            if own:
                own[name].copy_(together)
        yield None if self.model is None else self.model.to(self.accelerator.device)
        if self.model is not None:
            self.model.cpu()


def _cut(network: nn.Module, mesh: DeviceMesh, whole: set[nn.Parameter]) -> None:
    """Block by block, so that never more than one of them is together."""
    nn.Module.to(network, memory_format=torch.contiguous_format)  # what lies otherwise can't be cut
    mid = [network.mid_block] if network.mid_block is not None else []
    for block in (*network.down_blocks, *mid, *getattr(network, "up_blocks", ()), network):
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=whole)


def whole(value: Tensor) -> Tensor:
    """A tensor in one piece. Of one in shards every process must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, held: Tensor) -> Tensor:
    """A whole tensor, cut as ``held`` is, or lying in memory as that does.

    torch's fused optimiser on CPUs takes moments for lying as their parameter does, and doesn't look: of another order
    they would belong to other weights.
    """
    if value.shape != held.shape:
        return value
    if not isinstance(held, DTensor):
        return torch.empty_like(held, dtype=value.dtype, device=value.device).copy_(value)
    given = value.to(held.device)
    return distribute_tensor(given, held.device_mesh, held.placements, src_data_rank=None)  # all have read the same


def either_kind(update: Update) -> Update:
    """A function of lists of tensors, called once with those in shards and once with the others: torch mixes none."""

    def apart(old: list[Tensor], new: list[Tensor], count: Tensor | int) -> None:
        for cut in (True, False):
            pairs = [(a, b) for a, b in zip(old, new, strict=True) if isinstance(b, DTensor) is cut]
            if pairs:
                update([a for a, _ in pairs], [b for _, b in pairs], count)

    return apart


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> None:
    """As torch's ``clip_grad_norm_``, which takes either shards or whole tensors, and here are both."""
    kinds = [[p for p in parameters if isinstance(p, DTensor) is cut and p.grad is not None] for cut in (True, False)]
    norms = [whole(nn.utils.get_total_norm([p.grad for p in kind])) for kind in kinds if kind]
    if not norms:
        return
    total = torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds:
        nn.utils.clip_grads_with_norm_(kind, limit, total)
