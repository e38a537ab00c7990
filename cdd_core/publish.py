"""Sharing: a model card for distilled weights, the files of a Space, and pushing either to the Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from cdd_core.cards import ONCE, Card
from cdd_core.models import LORA
from cdd_core.schedule import grid
from cdd_core.tasks import TASKS

WEIGHTS = ("checkpoints/pocket", "checkpoints/cards.yaml")  # of other families, a checkout may hold gigabytes
TEXTS = ("requirements.txt", "packages.txt", "README.md", "LICENSE")
SPACE = ("app.py", "app", "cdd_core", "assets", *WEIGHTS, "docs", *TEXTS)
LEFT_OUT = ("__pycache__", "*.pyc", "*.partial")
MEASURED = ("excess", "depth_error", "change_accuracy", "preserve_accuracy", "probe_lpips")
TIMESTEPS = 1000  # of every base that there is a pipeline for
PYTORCH = {"controlnet": "ControlNetModel", "unet": "UNet2DConditionModel"}

ETHICS = """\
Fast, cheap picture synthesis serves photography, design and art, and it serves those who want to deceive. Don't pass
results off as photographs, don't use them to mislead people or to imitate someone without consent, and keep the note
in each file that says a model made it. What a model was trained on can show in what it draws: train on pictures that
you may use, and keep private ones out.
"""

USE = """\
```python
from diffusers import {names}
from diffusers.utils import load_image

repository = "{repository}"
pipe = {pipeline}.from_pretrained(
    "{base}",
{parts}
){lora}
pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config, {grid}){times}
image = load_image("{file}")  # {takes}
image = pipe("{prompt}", image, num_inference_steps={steps}, guidance_scale={guidance}).images[0]
```

{count}
"""
DIVIDES = "In stock pipelines the number of steps should divide {}: only then do they step on the grid."
TIMES = """
set_timesteps = pipe.scheduler.set_timesteps
pipe.scheduler.set_timesteps = lambda *_, **__: set_timesteps(timesteps={})"""
OWN_TIMES = (
    "These timesteps are taken whatever `num_inference_steps` says; for another number N, put in those of "
    "`cdd_core.schedule.grid(N, {}, {}, {})`."
)
PART = '    {part}={cls}.from_pretrained(repository, subfolder="{part}"),'
LOAD_LORA = """
pipe.load_lora_weights(repository, subfolder="lora", weight_name="pytorch_lora_weights.safetensors")"""
# In a fresh noise schedule as the samplers here have it, whatever the base's scheduler says.
DDIM = 'timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True, steps_offset=0'
USE_ONCE = """\
Its ControlNet runs once for all steps, which stock pipelines can't do. With the code it was trained by:

```bash
python -m cdd_core fetch --family FAMILY --distilled {repository}
python -m cdd_core sample --model FAMILY --task {task} --image {file} --prompt "{prompt}"
```
"""


@dataclass(frozen=True)
class Told:
    """What only the person who trained can say.

    Attributes:
        licence: of the weights, as the Hub names it.
        data: what they were trained on, and by what right.
        base: repository of the base they belong to.
        results: rows of ``evaluate``, if there are any.
    """

    licence: str
    data: str
    base: str
    results: tuple[Mapping[str, object], ...] = ()


def model_card(folder: Path, repository: str, told: Told) -> str:
    """README of distilled weights: use, recipe, data, figures, limits, and what they shouldn't be used for.

    Args:
        folder: of the weights, with ``cdd.json``.
        repository: ``owner/name`` on the Hub.
        told: see :class:`Told`.
    """
    card = Card.read(folder)
    parts = [part for part in (*PYTORCH, LORA) if (folder / part).is_dir()]
    front = {
        "license": told.licence,
        "base_model": told.base,
        "library_name": "diffusers",
        "pipeline_tag": "image-to-image",
        "tags": ["cdd", "distillation", card.task, *parts],
    }
    recipe = json.dumps(card.provenance.get("config", {}), indent=2, ensure_ascii=False)
    return "\n".join(
        [
            "---",
            *(f"{key}: {json.dumps(value)}" for key, value in front.items()),
            "---",
            f"# {repository.split('/')[-1]}",
            "",
            f"Takes {TASKS[card.task].takes}. Distilled with conditional diffusion distillation (Mei et al., CVPR "
            f"2024) to few steps of one network evaluation each{_baked(card)}.",
            "",
            "## Use",
            "",
            _use(card, parts, repository, told.base),
            f"Steps: 1 to {min(8, card.stages)}, on a grid of {card.stages} points. Sampler: {_samplers(card)}.",
            "",
            "## Training data",
            "",
            told.data,
            "",
            "## Figures",
            "",
            _figures(told.results),
            "",
            "## Limits",
            "",
            "It knows the noise levels of its grid only, and costs some variety and now and then a detail against the "
            "model it was distilled from. What its base can't draw, it can't either.",
            "",
            "## Responsible use",
            "",
            ETHICS,
            "## Recipe",
            "",
            f"```json\n{recipe}\n```",
            "",
        ]
    )


def write_model(folder: Path, out: Path, repository: str, told: Told) -> None:
    """Copy distilled weights into ``out``, with their model card and with the U-Net that low-rank changes apply to.

    Raises:
        FileNotFoundError: the folder holds no weights with a ``cdd.json``, or that U-Net is missing.
    """
    card = Card.read(folder)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(*LEFT_OUT))
    if card.unet:
        shutil.copytree(folder / card.unet, out / "unet")
        replace(card, unet="").write(out)
    (out / "README.md").write_text(model_card(out, repository, told), encoding="utf-8")


def write_space(root: Path, out: Path) -> None:
    """Copy what a Space needs from a checkout into ``out``; public weights are fetched there, not copied.

    Raises:
        FileNotFoundError: the checkout is incomplete.
    """
    missing = [name for name in SPACE if not (root / name).exists()]
    if missing:
        raise FileNotFoundError(f"{root} lacks {', '.join(missing)}; push from a whole checkout")
    for name in SPACE:
        if (root / name).is_dir():
            shutil.copytree(root / name, out / name, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
        else:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, out / name)


def push(folder: Path, repository: str, kind: Literal["model", "space"], private: bool) -> str:
    """Upload a folder as a repository of the Hub, made if need be; returns its address.

    Raises:
        ValueError: the Hub refuses, for instance for want of a token.
    """
    hub = HfApi()
    more = {"space_sdk": "gradio"} if kind == "space" else {}
    try:
        made = hub.create_repo(repository, repo_type=kind, private=private, exist_ok=True, **more)
        hub.upload_folder(folder_path=folder, repo_id=repository, repo_type=kind, ignore_patterns=list(LEFT_OUT))
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"the Hub didn't take {repository}: {error}; log in with: hf auth login") from error
    return str(made)


def _use(card: Card, parts: list[str], repository: str, base: str) -> str:
    """Lines that draw with these weights, all of them, on the card's own grid."""
    prompt = {"edit": "make it sunset", "upscale": ""}.get(card.task, "a lake at sunset")
    file = "depth.png" if card.task == "depth" else "photo.png"
    if card.adapter == ONCE:
        return USE_ONCE.format(repository=repository, task=card.task, file=file, prompt=prompt)
    kind = "InstructPix2Pix" if card.adapter == "concat" else "ControlNet"
    pipeline, own = f"StableDiffusion{kind}Pipeline", [part for part in parts if part in PYTORCH]
    renoises = card.sampler_for(card.steps) == "renoise"
    scheduler = "LCMScheduler" if renoises else "DDIMScheduler"
    steps, times, count = _steps(card, renoises)
    takes = TASKS[card.task].takes
    if card.task == "depth" and card.condition_gamma != 1:
        takes += f", its values in [0, 1] raised to the power of {card.condition_gamma}"
    if card.task == "upscale":
        takes += ", plainly enlarged to the size that is wanted"
    return USE.format(
        names=", ".join(sorted([*(PYTORCH[part] for part in own), pipeline, scheduler])),
        pipeline=pipeline,
        repository=repository,
        base=base,
        parts="\n".join(PART.format(part=part, cls=PYTORCH[part]) for part in own),
        lora=LOAD_LORA if LORA in parts else "",
        scheduler=scheduler,
        grid=f"original_inference_steps={card.stages}" if renoises else DDIM,
        file=file,
        takes=takes,
        prompt=prompt,
        times=times,
        steps=steps,
        guidance=card.guidance,
        count=count,
    )


def _steps(card: Card, renoises: bool) -> tuple[int, str, str]:
    """How many steps a stock pipeline takes, lines that give it the card's own grid, and what to know of others."""
    if renoises and (card.renoise_from < 1 or TIMESTEPS % card.stages):  # stock grids have but whole multiples
        times = grid(card.steps, card.stages, TIMESTEPS, card.renoise_from)
        return card.steps, TIMES.format(times), OWN_TIMES.format(card.stages, TIMESTEPS, card.renoise_from)
    divisor = next((n for n in range(card.steps, card.stages + 1) if card.stages % n == 0), card.steps)
    return divisor, "", DIVIDES.format(card.stages)


def _baked(card: Card) -> str:
    config = card.provenance.get("config", {})
    guided = any(config.get(name, 1.0) != 1.0 for name in ("guidance", "image_guidance"))
    return "; guidance is baked in" if guided else ", without guidance"


def _samplers(card: Card) -> str:
    named = {steps: sampler for steps, sampler in card.samplers.items() if steps}
    rest = card.samplers[0]
    told = ", ".join([f"{sampler} with {steps}" for steps, sampler in sorted(named.items())] + [f"{rest} otherwise"])
    if card.noise_scale == 1:
        return told
    return f"{told}, its noise times {card.noise_scale:g}; stock schedulers leave that out, and draw a little softer"


def _figures(rows: tuple[Mapping[str, object], ...]) -> str:
    if not rows:
        return "None were measured."
    names = [name for name in ("variant", "steps", "nfe", *MEASURED, "n") if name in rows[0]]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        values = [row[name] for name in names]
        lines.append(f"| {' | '.join(f'{v:.4g}' if isinstance(v, float) else str(v) for v in values)} |")
    return "\n".join(lines)
