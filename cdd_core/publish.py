"""Sharing: a model card for distilled weights, the files of a Space, and pushing either to the Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from cdd_core.cards import Card
from cdd_core.tasks import TASKS

SPACE = ("app.py", "app", "cdd_core", "assets", "checkpoints", "requirements.txt", "README.md", "LICENSE")
LEFT_OUT = ("__pycache__", "*.pyc", "sd15", "*.partial")
PYTORCH = {"controlnet": "ControlNetModel", "unet": "UNet2DConditionModel"}

ETHICS = """\
Fast, cheap picture synthesis serves photography, design and art, and it serves those who want to deceive. Don't pass
results off as photographs, don't use them to mislead people or to imitate someone without consent, and keep the note
in each file that says a model made it. What a model was trained on can show in what it draws: train on pictures that
you may use, and keep private ones out.
"""

USE = """\
```python
import torch
from diffusers import {classes}, {scheduler}, {pipeline}

pipe = {pipeline}.from_pretrained("{base}", {part}={cls}.from_pretrained("{repository}", subfolder="{part}"))
pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config, timestep_spacing="trailing")
image = pipe("{prompt}", {image}, num_inference_steps={steps}, guidance_scale=1.0).images[0]
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
    parts = [part for part in PYTORCH if (folder / part).is_dir()]
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
            "2024) to few steps of one network evaluation each; guidance is baked in.",
            "",
            "## Use",
            "",
            _use(card, parts, repository, told.base),
            f"Steps: 1 to 8, on a grid of {card.stages} points. Sampler: {_samplers(card)}.",
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
            out.mkdir(parents=True, exist_ok=True)
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
    part = parts[0]
    edits = card.adapter == "concat"
    pipeline = "StableDiffusionInstructPix2PixPipeline" if edits else "StableDiffusionControlNetPipeline"
    renoises = card.sampler_for(card.steps) == "renoise"
    return USE.format(
        classes=PYTORCH[part],
        cls=PYTORCH[part],
        scheduler="LCMScheduler" if renoises else "DDIMScheduler",
        pipeline=pipeline,
        base=base,
        part=part,
        repository=repository,
        prompt="make it sunset" if edits else "a lake at sunset",
        image="photo" if edits else "condition",
        steps=card.steps,
    )


def _samplers(card: Card) -> str:
    named = {steps: sampler for steps, sampler in card.samplers.items() if steps}
    rest = card.samplers[0]
    return ", ".join([f"{sampler} with {steps}" for steps, sampler in sorted(named.items())] + [f"{rest} otherwise"])


def _figures(rows: tuple[Mapping[str, object], ...]) -> str:
    if not rows:
        return "None were measured."
    names = [name for name in ("variant", "steps", "nfe", "excess", "depth_error", "n") if name in rows[0]]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        values = [row[name] for name in names]
        lines.append(f"| {' | '.join(f'{v:.4g}' if isinstance(v, float) else str(v) for v in values)} |")
    return "\n".join(lines)
