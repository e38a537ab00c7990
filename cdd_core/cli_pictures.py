"""The verbs that draw, render and take in pictures; heavy imports wait until one runs."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cdd_core.quiet import quiet_libraries
from cdd_core.verbs import refuse

if TYPE_CHECKING:
    from PIL import Image

DRAWN = ("task", "variant", "prompt", "seed", "steps", "sampler")
SEEN = ("invert", "degradation", "estimate", "lines")  # how the upload was looked at


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
    """A depth map, near bright (8 or 16 bit), or the picture to edit, to enlarge or to take edges from."""
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
    """ddim, renoise, dpmsolver++ or unipc; the model's own if left out."""
    invert: bool = False
    """The map is dark where it is near."""
    degradation: float = 0.0
    """Of a picture to enlarge: above 0, make it small and damage it first, with a strength up to 1."""
    size: int | None = None
    """Pixels a side, one of the model's sizes; its own if left out."""
    largest: int | None = None
    """Most pixels a side of an enlarged picture; if left out 2048 on a GPU, else four times the model's size."""
    estimate: bool = False
    """For depth, the picture is a photo, and the family's estimator says how near everything is."""
    lines: bool = False
    """For outlines and edges, the picture shows them already."""
    out: Path = Path("out")
    device: str = "auto"
    """Where to draw; auto takes a GPU if there is one."""
    offload: bool = False
    """For small GPUs: networks take turns on it."""
    watermark: bool = True
    """Put an invisible mark into the picture, see inspect."""
    safety_checker: bool = True
    """Withhold what the family's safety checker objects to, where the family has one."""

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        quiet_libraries()  # before they are imported: some of it is said then
        from cdd_core.estimator import load_estimator
        from cdd_core.families import ESTIMATOR, SAFETY, refuse_missing
        from cdd_core.inference import plan, sample
        from cdd_core.loading import drawing_device, drawing_dtype, family_folder, load
        from cdd_core.offload import Turns
        from cdd_core.safety import load_safety_checker

        device = drawing_device(self.device)
        turns = Turns(device) if self.offload else None
        home = family_folder(self.model)
        refuse_missing(home, checker=self.safety_checker)
        model = load(home, self.task, self.variant, device, dtype=drawing_dtype(home, device), turns=turns)
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
            estimator=load_estimator(home / ESTIMATOR, device) if self.estimate else None,
            size=self.size,
            largest=self.largest,
            lines=self.lines,
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
            "invert": self.invert,
            "degradation": self.degradation,
            "estimate": self.estimate,
            "lines": self.lines,
            "pixels": list(shown[-1].image.size),
            "timesteps": [step.t for step in shown],
            "nfe": shown[-1].nfe,
            "adapter_evaluations": model.denoiser.adapter.evaluations,
            "seconds": {"total": sum(seconds), "steps": seconds},
            "peak_memory_bytes": peak_memory(model.device.type),
        }
        pictures = [step.image for step in shown]
        if self.safety_checker and (home / SAFETY).is_dir():
            checker = load_safety_checker(home / SAFETY, "cpu" if turns else device)
            pictures = [checker.passed(picture) for picture in pictures]
        self._write(pictures, trace)
        width, height = shown[-1].image.size
        spent = f"{how.steps} steps, {shown[-1].nfe} evaluations, {sum(seconds):.2f} s"
        print(f"{self.out / 'final.png'}: {width} x {height} pixels, {spent}")

    def _write(self, pictures: list[Image.Image], trace: dict[str, object]) -> None:
        """Every step, the last one with its settings, and the facts of the run."""
        from cdd_core.png import save_png
        from cdd_core.watermark import mark

        self.out.mkdir(parents=True, exist_ok=True)
        marked = [mark(picture) if self.watermark else picture for picture in pictures]
        for number, picture in enumerate(marked):
            save_png(picture, self.out / f"x0_{number:02d}.png")
        told = {key: trace[key] for key in (*DRAWN, *SEEN)}
        save_png(marked[-1], self.out / "final.png", told)
        (self.out / "trace.json").write_text(json.dumps(trace, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Inspect:
    """Tell whether a picture was drawn here: its notes, and its invisible mark."""

    image: Path

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        from cdd_core.images import open_image
        from cdd_core.png import read_parameters
        from cdd_core.watermark import CERTAIN, certainty

        picture = open_image(self.image)
        found = certainty(picture)
        verdict = "found" if found >= CERTAIN else "not found"
        print(f"invisible mark: {verdict} ({found:.1f} standard deviations above chance; {CERTAIN:g} are certain)")
        notes = read_parameters(picture)
        print("notes: " + ("none" if notes is None else json.dumps(notes, ensure_ascii=False)))


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
class TakeIn:
    """Make a training set of your own pictures; the same command again goes on."""

    source: str
    """A folder of pictures (captions or pairs in metadata.jsonl, or captions in NAME.txt), hub:OWNER/NAME, or
    SHARDS.tar."""
    model: str = "sd15"
    """The family that will be trained; its autoencoder and text encoder are used."""
    out: Path = Path("runs/own")
    size: int | None = None
    """Pixels a side; the model's own if left out."""
    depth: bool = True
    """Estimate depth too, unless these are pairs to learn editing from; needs the family's estimator."""
    limit: int = 1_000_000
    split: str = "train"
    image_column: str = "image"
    caption_column: str = "text"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        quiet_libraries()  # before they are imported: some of it is said then
        import torch

        from cdd_core.checkpoint import read_json
        from cdd_core.data.own import PROGRESS, take_in
        from cdd_core.data.sources import open_source
        from cdd_core.estimator import load_estimator
        from cdd_core.families import ESTIMATOR, refuse_missing
        from cdd_core.loading import drawing_device, family_folder
        from cdd_core.models import latents_factor, load_components

        device = drawing_device(self.device)
        home = family_folder(self.model)
        refuse_missing(home)
        components = load_components(home / "base").to(device, torch.float32)
        size = self.size or components.unet.config.sample_size * latents_factor(components.vae)
        source = open_source(self.source, self.split, self.image_column, self.caption_column)
        estimator = load_estimator(home / ESTIMATOR, device) if self.depth and not source.paired else None
        count = take_in(source, components, self.out, size, estimator, self.limit)
        out = int(read_json(self.out / PROGRESS)["read"]) - count
        without = f"; {out} more were left out, as they can't be read or have no depth" if out else ""
        print(f"{count} pictures in {self.out}{without}")
