"""The verbs that train, measure and export, and all verbs together; heavy imports wait until one runs."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from cdd_core.cli_pictures import Inspect, Render, Sample, TakeIn
from cdd_core.cli_share import Convert, Fetch, Push
from cdd_core.config import TerraConfig
from cdd_core.quiet import quiet_libraries
from cdd_core.verbs import refuse

if TYPE_CHECKING:
    from cdd_core.workshop import StageConfig, Workshop


@dataclass(frozen=True)
class Places:
    """Where training reads and writes."""

    runs: Path = Path("runs/pocket")
    """States, logs and exports, a folder for each run."""
    data: Path = Path("runs/data")
    """Rendered Terra and its latents, or what take-in wrote."""
    photos: Path = Path("runs/photos")
    """Photographs that super-resolution and the decoder learn from, see docs/photos.md."""
    shipped: Path = Path("checkpoints/pocket")
    """The family whose weights are used where runs has none."""
    scenes: int = TerraConfig.scenes
    """Terra scenes rendered for training."""
    squares: int = TerraConfig.squares
    """Squares cut from the photographs, about; every later command has to say the same."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


def _workshop(places: Places) -> Workshop:
    import torch
    from accelerate import PartialState

    from cdd_core.workshop import Workshop

    on_cpu = places.device == "cpu" or not torch.cuda.is_available()
    if on_cpu and places.device == "cuda":
        raise ValueError("torch finds no CUDA device here; leave --device away, or say --device cpu")
    # Each process has a card of its own. Others wait for the first, however long it renders and encodes.
    state = PartialState(cpu=on_cpu, timeout=timedelta(days=2))
    terra = TerraConfig(places.scenes, squares=places.squares)
    return Workshop(places.runs, places.data, places.photos, places.shipped, terra, torch.device(state.device))


def _train(places: Places, stage: str, name: str, config: StageConfig, preset: str, dry_run: bool) -> None:
    quiet_libraries()  # before they are imported: some of it is said then
    from accelerate import PartialState

    from cdd_core.shards import shards_wanted
    from cdd_core.trainer import train

    shop, state = _workshop(places), PartialState()
    shards_wanted(config.loop, shop.device)  # or a refusal, before anything is rendered
    run = places.runs / name
    if state.is_main_process and not dry_run:
        shop.record(run, config, stage, preset, command_line())
    # What a stage renders and encodes is written once: on a shared disk by the first process, else by each machine's.
    with state.main_process_first(), state.local_main_process_first():
        built = shop.stage(stage, config)
    if dry_run:
        from cdd_core.dryrun import describe

        told = describe(built, config.loop, config, shop.device, state.num_processes)  # all have a part in a step
        if state.is_main_process:
            print(told)
        return
    exported = train(built, config.loop, run, cpu=shop.device.type == "cpu")
    if state.is_main_process:
        print(f"weights in {exported}")


@dataclass(frozen=True)
class Train:
    """Train an undistilled model; the same command again resumes. Further flags override the preset."""

    stage: Literal["vae", "decoder", "text", "base", "depth", "edit", "upscale", "probe"]
    preset: str = "pocket"
    """pocket; or gpu for vae, decoder, base and depth; A or B for probe."""
    dry_run: bool = False
    """Tell the resolved settings, size, memory and time, and train nothing; what is learnt from is rendered first."""
    places: Annotated[Places, tyro.conf.arg(name="")] = Places()

    def run(self, extra: list[str]) -> None:
        from cdd_core.workshop import PRESETS

        config = choose(PRESETS[self.stage], self.preset, extra)
        name = f"probe-{self.preset}" if self.stage == "probe" else self.stage
        _train(self.places, self.stage, name, config, self.preset, self.dry_run)


@dataclass(frozen=True)
class Distill:
    """Distil a model; the same command again resumes. Further flags override the preset."""

    task: Literal["depth", "edit", "upscale", "canny", "softedge"] = "depth"
    preset: str = "best"
    """best, which differs between tasks, or paper; sd-best or sd-paper for models of Stable Diffusion's size."""
    objective: Literal["cdd", "consistency"] = "cdd"
    """consistency: without an anchor at the data and without a discriminator, led by the teacher alone."""
    name: str = ""
    """Of the run's folder; TASK-PRESET if left out (with the objective, if it isn't cdd)."""
    dry_run: bool = False
    """Tell the resolved settings, size, memory and time, and train nothing; what is learnt from is rendered first."""
    places: Annotated[Places, tyro.conf.arg(name="")] = Places()

    def run(self, extra: list[str]) -> None:
        from cdd_core.recipes import as_objective, distill_presets

        config = as_objective(choose(distill_presets(self.task), self.preset, extra), self.objective)
        recipe = self.preset if self.objective == "cdd" else f"{self.preset}-{self.objective}"
        _train(self.places, "distill", self.name or f"{self.task}-{recipe}", config, recipe, self.dry_run)


@dataclass(frozen=True)
class Evaluate:
    """Measure models on held-out scenes; the same command again resumes."""

    task: Literal["depth", "edit", "upscale"] = "depth"
    model: str = "pocket"
    variants: str = "undistilled,distilled"
    samplers: str = ""
    """ddim, renoise, dpmsolver++, unipc; if left out each model's own, and the rivals at 4 and 8 steps."""
    steps: str = ""
    """Such as 1,4,50; if left out 1,2,4,8 for distilled and 1,2,4,8,20,50 for undistilled models, and 250 too for
    upscale."""
    guidance: str = ""
    """Text guidance scales, such as 1,2. If neither scale is given, each model's own, and 1 beside it."""
    image_guidance: str = ""
    """Likewise of the picture that is edited; every pair of both is measured."""
    n: int = 2000
    world: int = 0
    """Of Terra's scenes. Tables are of 0; settings are chosen in another one."""
    seed: int = 0
    """Of the noise that pictures begin with."""
    out: Path | None = None
    """docs/results/TASK if left out; of another world runs/results/TASK-world-WORLD."""
    known: Path | None = None
    """Where rows of an earlier measurement lie, from any machine, that need not be drawn again; docs/results/TASK if
    left out."""
    cache: Path = Path("runs/evaluation")
    """Rendered scenes and what is measured so far."""
    probes: Path = Path("checkpoints/pocket/probe")
    elsewhere: Path = Path("assets/elsewhere")
    photos: Path = Path("runs/photos")
    """Photographs, a part of them held out for super-resolution; without them that part is left out."""
    device: str = "cpu"
    """cpu or cuda; a GPU isn't taken unasked."""
    precision: Literal["no", "bf16", "fp16", "auto"] = "no"
    """Of the models' arithmetic; bf16 halves the time where the processor multiplies it."""
    imagenet: bool = False
    """FID and LPIPS proper, too; needs torch-fidelity and torchvision, and downloads their weights."""

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        quiet_libraries()  # before they are imported: some of it is said then
        from cdd_core.config import EvaluateConfig
        from cdd_core.evaluation.command import Beyond, evaluate
        from cdd_core.loading import family_folder

        tables = Path("docs/results") / self.task
        config = EvaluateConfig(
            task=self.task,
            variants=tuple(self.variants.split(",")),
            samplers=tuple(filter(None, self.samplers.split(","))),
            steps=tuple(int(k) for k in self.steps.split(",") if k),
            guidance=tuple(float(g) for g in self.guidance.split(",") if g),
            image_guidance=tuple(float(g) for g in self.image_guidance.split(",") if g),
            n=self.n,
            world=self.world,
            seed=self.seed,
            out=self.out or (Path(f"runs/results/{self.task}-world-{self.world}") if self.world else tables),
            known=self.known or tables,
            cache=self.cache,
            precision=self.precision,
            imagenet=self.imagenet,
        )
        family = family_folder(self.model)
        beyond = Beyond(self.probes, self.elsewhere, self.photos)
        evaluate(config, family, beyond, self.device, command_line())


@dataclass(frozen=True)
class Export:
    """Turn a run into inference weights: a folder that stock diffusers loads."""

    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    out: Path
    places: Annotated[Places, tyro.conf.arg(name="")] = Places()

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        quiet_libraries()  # before they are imported: some of it is said then
        from cdd_core.shipping import export_run

        export_run(_workshop(self.places), self.run_folder, self.out)
        print(f"weights in {self.out}")


def command_line() -> str:
    """The command that is running, as one would type it."""
    return shlex.join(["python", "-m", "cdd_core", *sys.argv[1:]])


def choose(presets: dict[str, StageConfig], name: str, overrides: list[str]) -> StageConfig:
    """A preset with command-line overrides, such as ``--loop.steps 100``.

    Raises:
        ValueError: no such preset.
    """
    if name not in presets:
        raise ValueError(f"the preset is one of {', '.join(presets)}, not {name!r}")
    return tyro.cli(type(presets[name]), default=presets[name], args=overrides)


VERBS = (
    Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Distill, tyro.conf.subcommand("distill")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Fetch, tyro.conf.subcommand("fetch")]
    | Annotated[TakeIn, tyro.conf.subcommand("take-in")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Push, tyro.conf.subcommand("push")]
)
