"""The verbs of the command line as typed values; heavy imports wait until one runs."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import tyro

if TYPE_CHECKING:
    from cdd_core.workshop import StageConfig, Workshop


class Verb(Protocol):
    """A parsed command."""

    def run(self, extra: list[str]) -> None:
        """Do it; ``extra`` are arguments the verb itself does not know."""


def refuse(extra: list[str]) -> None:
    """Raise on leftover arguments of a verb that takes none."""
    if extra:
        raise ValueError(f"unknown arguments: {' '.join(extra)}; see --help")


def peak_memory(device: str) -> int:
    """Most bytes held so far: of the GPU where one was used, else of the process; 0 where nobody counts."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows does not count
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class Sample:
    """Draw one picture; writes final.png, x0_00.png ... and trace.json."""

    image: Path
    """A depth map, near bright (8 or 16 bit), or the photo to edit."""
    task: Literal["depth", "edit", "upscale", "canny", "softedge"] = "depth"
    model: str = "pocket"
    """A family or a folder of checkpoints."""
    variant: str = "distilled"
    """distilled, undistilled or the name of another folder under the task."""
    prompt: str = ""
    steps: int | None = None
    seed: int = 0
    guidance: float | None = None
    """Of the prompt; the model's own if left out, and image guidance likewise."""
    image_guidance: float | None = None
    control: float = 1.0
    """How strongly a ControlNet's condition acts."""
    negative: str = ""
    """What guidance leads away from."""
    sampler: str | None = None
    invert: bool = False
    """The map is dark where it is near."""
    degradation: float = 0.0
    """Of a picture to enlarge: above 0, make it small and damage it first, with a strength up to 1."""
    out: Path = Path("out")
    device: str = "cpu"

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        from cdd_core.inference import family_folder, load, plan, sample
        from cdd_core.png import save_png
        from cdd_core.quiet import quiet_libraries

        quiet_libraries()
        model = load(family_folder(self.model), self.task, self.variant, self.device)
        how = plan(model, self.steps, self.sampler, self.guidance, self.image_guidance, self.control, self.negative)
        steps = sample(
            model,
            self.image,
            self.prompt,
            how.steps,
            self.seed,
            guidance=how.guidance.text,
            sampler=how.sampler,
            image_guidance=how.guidance.image,
            control=self.control,
            negative=self.negative,
            invert=self.invert,
            degradation=self.degradation,
        )
        shown, seconds, start = [], [], time.perf_counter()
        for step in steps:
            shown.append(step)
            seconds.append(time.perf_counter() - start - sum(seconds))
        trace: dict[str, object] = {
            "task": self.task,
            "model": self.model,
            "variant": self.variant,
            "prompt": self.prompt,
            "seed": self.seed,
            "steps": how.steps,
            "sampler": how.sampler,
            "guidance": how.guidance.text,
            "image_guidance": how.guidance.image,
            "control": self.control,
            "negative": self.negative,
            "timesteps": [step.t for step in shown],
            "nfe": shown[-1].nfe,
            "adapter_evaluations": model.denoiser.adapter.evaluations,
            "seconds": {"total": sum(seconds), "steps": seconds},
            "peak_memory_bytes": peak_memory(model.device.type),
        }
        self.out.mkdir(parents=True, exist_ok=True)
        for step in shown:
            save_png(step.image, self.out / f"x0_{step.i:02d}.png")
        save_png(
            shown[-1].image,
            self.out / "final.png",
            {k: trace[k] for k in ("task", "variant", "prompt", "seed", "steps", "sampler")},
        )
        (self.out / "trace.json").write_text(json.dumps(trace, indent=2) + "\n", encoding="utf-8")
        print(f"{self.out / 'final.png'}: {how.steps} steps, {shown[-1].nfe} evaluations, {sum(seconds):.2f} s")


@dataclass(frozen=True)
class Render:
    """Render Terra: picture, 16-bit depth and an edited picture for every scene, with metadata.jsonl."""

    n: int = 16
    size: int = 128
    seed: int = 0
    out: Path = Path("terra")

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        from cdd_core.data.terra.folder import write_folder

        write_folder(self.out, self.n, self.size, self.seed)


@dataclass(frozen=True)
class Places:
    """Where training reads and writes."""

    runs: Path = Path("runs/pocket")
    data: Path = Path("runs/data")
    photos: Path = Path("runs/photos")
    """Photographs that super-resolution and the decoder learn from, see docs/photos.md."""
    shipped: Path = Path("checkpoints/pocket")
    scenes: int = 100_000
    """Terra scenes rendered for training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


def _workshop(places: Places) -> Workshop:
    import torch

    from cdd_core.config import TerraConfig
    from cdd_core.quiet import quiet_libraries
    from cdd_core.workshop import Workshop

    quiet_libraries()
    chosen = places.device
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    world, device = TerraConfig(places.scenes), torch.device(chosen)
    return Workshop(places.runs, places.data, places.photos, places.shipped, world, device)


def _train(places: Places, stage: str, name: str, config: StageConfig, preset: str) -> None:
    from cdd_core.trainer import train

    shop = _workshop(places)
    run = places.runs / name
    shop.record(run, config, stage, preset)
    exported = train(shop.stage(stage, config), config.loop, run, cpu=shop.device.type == "cpu")
    print(f"weights in {exported}")


@dataclass(frozen=True)
class Train:
    """Train an undistilled model; the same command again resumes. Further flags override the preset."""

    stage: Literal["vae", "decoder", "base", "depth", "edit", "upscale", "probe"]
    preset: str = "pocket"
    places: Annotated[Places, tyro.conf.arg(name="")] = Places()

    def run(self, extra: list[str]) -> None:
        from cdd_core.workshop import PRESETS

        config = choose(PRESETS[self.stage], self.preset, extra)
        name = f"probe-{self.preset}" if self.stage == "probe" else self.stage
        _train(self.places, self.stage, name, config, self.preset)


@dataclass(frozen=True)
class Distill:
    """Distil a model; the same command again resumes. Further flags override the preset."""

    task: Literal["depth", "edit", "upscale"] = "depth"
    preset: str = "best"
    objective: Literal["cdd"] = "cdd"
    name: str = ""
    """Of the run's folder; TASK-PRESET if left out."""
    places: Annotated[Places, tyro.conf.arg(name="")] = Places()

    def run(self, extra: list[str]) -> None:
        from cdd_core.workshop import DISTILL_PRESETS

        config = choose(DISTILL_PRESETS, self.preset, ["--task", self.task, *extra])
        _train(self.places, "distill", self.name or f"{self.task}-{self.preset}", config, self.preset)


@dataclass(frozen=True)
class Evaluate:
    """Measure models on held-out scenes; the same command again resumes."""

    task: Literal["depth", "edit", "upscale"] = "depth"
    model: str = "pocket"
    variants: str = "undistilled,distilled"
    samplers: str = ""
    """ddim, renoise, dpmsolver++, unipc; if left out each model's own, and the rivals at 4 and 8 steps."""
    steps: str = ""
    """Such as 1,4,50; if left out 1,2,4,8 for distilled and 1,2,4,8,20,50 for undistilled models."""
    guidance: str = ""
    """Text guidance scales, such as 1,2; each model's own if left out."""
    n: int = 2000
    seed: int = 0
    out: Path = Path("docs/results")
    cache: Path = Path("runs/evaluation")
    """Rendered scenes and what is measured so far."""
    probes: Path = Path("checkpoints/pocket/probe")
    elsewhere: Path = Path("assets/elsewhere")
    device: str = "cpu"

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        from cdd_core.config import EvaluateConfig
        from cdd_core.evaluation.command import evaluate
        from cdd_core.inference import family_folder
        from cdd_core.quiet import quiet_libraries

        quiet_libraries()
        config = EvaluateConfig(
            task=self.task,
            variants=tuple(self.variants.split(",")),
            samplers=tuple(filter(None, self.samplers.split(","))),
            steps=tuple(int(k) for k in self.steps.split(",") if k),
            guidance=tuple(float(g) for g in self.guidance.split(",") if g),
            n=self.n,
            seed=self.seed,
            out=self.out,
            cache=self.cache,
        )
        command = " ".join(["python -m cdd_core", *sys.argv[1:]])
        evaluate(config, family_folder(self.model), self.probes, self.elsewhere, self.device, command)


@dataclass(frozen=True)
class Export:
    """Turn a run into inference weights: a folder that stock diffusers loads."""

    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    out: Path
    places: Annotated[Places, tyro.conf.arg(name="")] = Places()

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        from cdd_core.workshop import export_run

        export_run(_workshop(self.places), self.run_folder, self.out)
        print(f"weights in {self.out}")


@dataclass(frozen=True)
class Fetch:
    """Bring public models into checkpoints/, in the layout of our own, with the cards they lack."""

    family: str
    """A row of the catalogue's families, such as sd15."""
    out: Path = Path("checkpoints")
    catalogue: Path = Path("checkpoints/cards.yaml")
    source: Path | None = None
    """A folder of repositories OWNER/NAME to take instead of the Hub's."""

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        from cdd_core.families import Folder, Hub, fetch, read_families

        families = read_families(self.catalogue)
        if self.family not in families:
            raise ValueError(f"the family is one of {', '.join(families)}, not {self.family!r}")
        fetch(families[self.family], self.out / self.family, Folder(self.source) if self.source else Hub())
        print(f"models in {self.out / self.family}")


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
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Distill, tyro.conf.subcommand("distill")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Fetch, tyro.conf.subcommand("fetch")]
)
