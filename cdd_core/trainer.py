"""One training loop for every stage: batch, loss, step, average, and now and then a checkpoint and a sheet."""

from __future__ import annotations

import time
from abc import abstractmethod
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import ProjectConfiguration, patch_environment
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from cdd_core.checkpoint import digest, read_json, write_json, written_whole
from cdd_core.config import LoopConfig
from cdd_core.images import to_pil
from cdd_core.memory import keep_freed_memory
from cdd_core.provenance import EXPORTED
from cdd_core.seeds import derived_seed
from cdd_core.shards import SWITCH, Copies, Shards, clip_gradients, either_kind, shards_wanted
from cdd_core.speed import (
    HALF,
    checkpoint_activations,
    compile_blocks,
    diffusion_networks,
    mixed_precision,
    plain_attention,
)
from cdd_core.state import load_state, save_state

Draws = dict[str, Tensor]
Losses = dict[str, Tensor]


class Stage(nn.Module):
    """What is trained and on what; the loop knows nothing else of it.

    Whatever has gradients is optimised; ``student`` is the part of it that is averaged and exported. Calling the
    stage computes its losses, so that a distributed wrapper around the stage sees the forward pass.
    """

    student: nn.Module
    moving: tuple[str, ...] = ()  # children without gradients that :meth:`after_step` moves all the same

    def still(self) -> dict[str, nn.Module]:
        """The networks in it that never move: held in half precision where that is computed with, and not saved."""
        others = {name: child for name, child in self.named_children() if name not in self.moving}
        learns = {name: [p.requires_grad for p in child.parameters()] for name, child in others.items()}
        return {name: others[name] for name, any_of in learns.items() if any_of and not any(any_of)}

    def twins(self) -> list[nn.Module]:
        """The ``moving`` children: copies of the student."""
        return [getattr(self, name) for name in self.moving]

    def inert(self) -> list[nn.Parameter]:
        """Parameters of the student that don't learn and aren't exported: held in half precision likewise."""
        return []

    @abstractmethod
    def draw(self, generator: torch.Generator, count: int) -> Draws:
        """All randomness of one global batch, first dimension ``count``; a process computes on its own rows."""

    @abstractmethod
    def forward(self, draws: Draws) -> Losses:
        """The losses, each a mean over the rows; ``"loss"`` is the one minimised."""

    def after_step(self) -> None:  # noqa: B027 - most stages have nothing to do here
        """Called once the optimiser has moved the student (a distillation moves its target)."""

    @abstractmethod
    def preview(self, averaged: nn.Module) -> Tensor:
        """A sheet of samples from the averaged student, (3, H, W) in [0, 1]."""

    @abstractmethod
    def export(self, averaged: nn.Module, folder: Path) -> None:
        """Write the averaged student as a folder that stock diffusers loads."""


def step_generator(seed: int, step: int) -> torch.Generator:
    """The randomness of one step, a function of (seed, step) alone: a resumed run draws what it would have drawn."""
    return torch.Generator().manual_seed(derived_seed(seed, step))


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, constant, linear decay to zero over the last ``cooldown`` share of the run."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (config.steps - step) / max(1.0, config.cooldown * config.steps)
    return config.learning_rate * min(warm, left, 1.0)


def build_optimizer(config: LoopConfig, stage: nn.Module) -> torch.optim.Optimizer:
    """AdamW of all that learns, with its moments in 8 bits if asked for.

    In two groups, since torch steps tensors in shards or whole ones, and no mixture of them.

    Raises:
        ValueError: no such optimiser.
        ImportError: ``bitsandbytes`` is not installed.
    """
    chosen = {"lr": config.learning_rate, "betas": config.betas, "weight_decay": config.weight_decay}
    learning = [p for p in stage.parameters() if p.requires_grad]
    cut = {id(p) for network in diffusion_networks(stage) for p in network.parameters()}
    parameters = [{"params": [p for p in learning if (id(p) in cut) is either]} for either in (True, False)]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **chosen, fused=True)
    if config.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, **chosen)
    raise ValueError(f"the optimiser is adamw or adamw8bit, not {config.optimizer!r}")


def train(stage: Stage, config: LoopConfig, run: Path, cpu: bool = False) -> Path:
    """Train a stage to the end of its budget, or on from where a killed run stood.

    Args:
        stage: freshly built; its weights are replaced if ``run`` holds a state.
        config: budget and optimiser.
        run: folder for state, logs and the export.
        cpu: stay on the CPU even where there is a GPU.

    Returns:
        The folder of the exported weights, ``run / "export"``.

    Raises:
        ValueError: see :func:`shards.shards_wanted`; the batch can't be shared by the processes; no such tracker.
    """
    accelerator = _accelerator(config, run, cpu)
    # No network here has dropout or batch statistics; in training mode diffusers would copy tensors to no end.
    stage.to(accelerator.device).eval()
    still = _digests(stage)
    make_fast(stage, config, accelerator.mixed_precision)
    averaged = average_of(stage.student, config.ema_decay)
    held = _shared_out(accelerator, stage, averaged.module, config)
    parts = _clipped_apart(stage)
    optimizer = build_optimizer(config, stage)
    modules = {"stage": stage, "averaged": averaged}
    first = _agreed(accelerator, load_state(run, modules, optimizer, accelerator.scaler, still))
    wrapped, optimizer = held.prepare(stage, optimizer)

    def export(step: int) -> None:
        with held.whole_average() as student:
            if student is not None:
                with written_whole(run / "export") as folder:
                    stage.export(student, folder)
                    write_json(folder / EXPORTED, {"step": step})
                _log_sheet(accelerator, stage, student, step)

    def keep(step: int) -> None:
        writes = accelerator.is_main_process
        save_state(run, step, modules, optimizer.optimizer, accelerator.scaler, still, writes)
        export(step)

    rank, world = accelerator.process_index, accelerator.num_processes
    bar = tqdm(range(first, config.steps), initial=first, total=config.steps, disable=not accelerator.is_main_process)
    saved_at = time.monotonic()
    for step in bar:
        draws = stage.draw(step_generator(config.seed, step), config.batch)
        mine = {k: v[rank::world].to(accelerator.device, non_blocking=True) for k, v in draws.items()}
        losses = wrapped(mine)
        accelerator.backward(losses["loss"])
        accelerator.unscale_gradients()  # once: a scaler of half precision refuses a second time
        for part in parts:
            held.average_gradients(part)
            clip_gradients(part, config.clip_norm)
        _move(optimizer, learning_rate(config, step))
        stage.after_step()
        _average(averaged, stage.student, config, step)
        if told := step % config.log_every == 0:
            bar.set_postfix({"loss": f"{_log_losses(accelerator, losses, config, step):.4f}"})
        due = held.agreed(time.monotonic() - saved_at > config.save_minutes * 60, told)
        if due and step + 1 < config.steps:
            keep(step + 1)
            saved_at = time.monotonic()
    if first < config.steps:
        keep(config.steps)
    elif _exported_step(run) != first:
        export(first)  # it was killed between its last state and the end of its last export
    wrapped = losses = None  # the last that knows the network's wrapper
    _end_together(accelerator)
    return run / "export"


def _move(optimizer: AcceleratedOptimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _average(averaged: AveragedModel, student: nn.Module, config: LoopConfig, step: int) -> None:
    """Until the warm-up ends the average is the student itself; a short run has an average, too."""
    if step <= min(config.warmup_steps, config.steps // 2):
        averaged.n_averaged.zero_()
    averaged.update_parameters(student)


def _accelerator(config: LoopConfig, run: Path, cpu: bool) -> Accelerator:
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    precision = mixed_precision(config.precision, device)
    shards_wanted(config, device)
    # What is cut, and how, is said in ``shards``; and of a network compiled as a whole four parts in five don't learn.
    with patch_environment(**{SWITCH: "false", "ACCELERATE_DYNAMO_BACKEND": "no"}):
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=precision,
            log_with=config.tracker,
            project_config=ProjectConfiguration(project_dir=str(run), logging_dir=str(run)),
        )
    # To TensorBoard the name is a folder's, beside the state; to the others a project's.
    accelerator.init_trackers("log" if config.tracker == "tensorboard" else "cdd")
    if accelerator.is_main_process and not accelerator.trackers:
        raise ValueError(f"the tracker {config.tracker} isn't installed: pip install {config.tracker}")
    if config.batch % accelerator.num_processes:
        raise ValueError(
            f"a batch of {config.batch} can't be shared by {accelerator.num_processes} processes; "
            f"choose a multiple with --loop.batch"
        )
    return accelerator


def _shared_out(accelerator: Accelerator, stage: Stage, averaged: nn.Module, config: LoopConfig) -> Copies:
    """How the processes hold the networks: each all of them, or in shards where accelerate's config says so."""
    if accelerator.num_processes == 1 or not shards_wanted(config, accelerator.device):
        return Copies(accelerator, averaged)
    return Shards(accelerator, averaged, stage.student, stage.twins(), stage)


def _end_together(accelerator: Accelerator) -> None:
    """When all are done; the network's wrapper ends before the group of processes that it talks to.

    Whoever ends that group waits for gloo's thread, which may want Python's lock once more. Python lets go of it
    meanwhile; the wrapper, if it were the last to know the group, wouldn't.
    """
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # whatever else knows the wrapper
    accelerator.end_training()


def _agreed(accelerator: Accelerator, step: int) -> int:
    """The step that every process found in the run's folder."""
    found = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if set(found) != {step}:
        raise ValueError("not every machine finds the run's state; keep --runs in a folder that all of them share")
    return step


def _exported_step(run: Path) -> int:
    """The step of the run's export; -1 if there is none, or none that says so."""
    path = run / "export" / EXPORTED
    return int(read_json(path)["step"]) if path.is_file() else -1


def make_fast(stage: Stage, config: LoopConfig, precision: str) -> None:
    """Or small, as asked; copies made of its networks later are compiled no more.

    Args:
        stage: on its device.
        config: what is asked.
        precision: that it is computed in, by accelerate's names; what never moves is held in it.
    """
    if precision in HALF:
        for network in stage.still().values():
            nn.Module.to(network, HALF[precision])  # diffusers' own warns of parts to be spared, though there are none
        for parameter in stage.inert():
            parameter.data = parameter.data.to(HALF[precision])
    for twin in stage.twins():
        _share_frozen(stage.student, twin)
    plain_attention(stage)
    if config.checkpointing:
        checkpoint_activations(stage)
    if config.compile:
        compile_blocks(stage)


def average_of(student: nn.Module, decay: float) -> AveragedModel:
    """The student's exponential moving average, which holds what doesn't learn together with it."""
    averaged = AveragedModel(student, multi_avg_fn=either_kind(get_ema_multi_avg_fn(decay)), use_buffers=True)
    _share_frozen(student, averaged.module)
    return averaged


def _share_frozen(student: nn.Module, twin: nn.Module) -> None:
    """Have a copy of the student hold what doesn't learn together with it: averages of the same are the same."""
    for own, other in zip(student.parameters(), twin.parameters(), strict=True):
        if not own.requires_grad:
            other.data = own.data


def _digests(stage: Stage) -> dict[str, str]:
    """Whatever never moves, networks and parts of the student, by its place in a state, with its digest."""
    found = {f"stage/{name}": digest(network) for name, network in stage.still().items()}
    homes = ("stage/student", *(f"stage/{name}" for name in stage.moving), "averaged/module")
    for name, parameter in stage.student.named_parameters():
        if not parameter.requires_grad:
            found |= dict.fromkeys((f"{home}.{name}" for home in homes), digest(nn.ParameterList([parameter])))
    return found


def _clipped_apart(stage: Stage) -> list[list[nn.Parameter]]:
    """The student's parameters and the others': a critic's large gradients must not shrink the student's."""
    own = {id(p) for p in stage.student.parameters()}
    learning = [p for p in stage.parameters() if p.requires_grad]
    return [part for s in (True, False) if (part := [p for p in learning if (id(p) in own) is s])]


def _log_losses(accelerator: Accelerator, losses: Losses, config: LoopConfig, step: int) -> float:
    """All of them, as means over the processes; returns the one that is minimised."""
    means = {name: accelerator.reduce(value.detach(), "mean").item() for name, value in losses.items()}
    accelerator.log({**means, "learning_rate": learning_rate(config, step)}, step=step)
    return means["loss"]


def _log_sheet(accelerator: Accelerator, stage: Stage, averaged: nn.Module, step: int) -> None:
    """Each tracker wants pictures its own way."""
    with accelerator.autocast():
        sheet = stage.preview(averaged).float().cpu()
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({"samples": sheet.numpy()[None]}, step=step)
        elif tracker.name == "wandb":
            tracker.log_images({"samples": [to_pil(sheet)]}, step=step)
        elif tracker.name == "trackio":
            import trackio

            tracker.tracker.log({"samples": trackio.Image(to_pil(sheet))}, step=step)
