"""Where training keeps its things, and how a stage is put together from them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTokenizer

from cdd_core.cards import CARD, Card
from cdd_core.checkpoint import read_json
from cdd_core.config import (
    BASE_PRESETS,
    DECODER_PRESETS,
    DEPTH_PRESETS,
    EDIT_PRESETS,
    PROBE_PRESETS,
    TEXT_PRESETS,
    UPSCALE_PRESETS,
    VAE_PRESETS,
    CddConfig,
    DecoderConfig,
    DenoisingConfig,
    ProbeConfig,
    TerraConfig,
    TextConfig,
    VaeConfig,
)
from cdd_core.data.latents import LatentSet, cache_instructions, cache_latents, cache_tokens
from cdd_core.data.own import PROGRESS, open_own
from cdd_core.data.photos import Crops, cut_crops
from cdd_core.data.small import cache_shown
from cdd_core.data.store import TerraStore, drawn_on, render_store
from cdd_core.data.terra.render import Terra
from cdd_core.evaluation.probe import ProbeStage
from cdd_core.families import is_fetched, refuse_missing, remedy
from cdd_core.models import (
    Components,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    latents_factor,
    load_components,
    load_module,
    load_text_encoder,
    scheduler_config,
)
from cdd_core.provenance import CARD_FACTS, begin, refuse_unfinished
from cdd_core.stages.denoising import DenoisingStage
from cdd_core.stages.distillation import DistillationStage
from cdd_core.stages.text import TextStage
from cdd_core.stages.vae import DecoderStage, VaeStage
from cdd_core.tasks import EDGES, POCKET_GAMMA, TASKS
from cdd_core.trainer import Stage

StageConfig = VaeConfig | DecoderConfig | TextConfig | DenoisingConfig | CddConfig | ProbeConfig
PRESETS: dict[str, dict[str, StageConfig]] = {
    "vae": VAE_PRESETS,
    "decoder": DECODER_PRESETS,
    "text": TEXT_PRESETS,
    "base": BASE_PRESETS,
    "depth": DEPTH_PRESETS,
    "edit": EDIT_PRESETS,
    "upscale": UPSCALE_PRESETS,
    "probe": PROBE_PRESETS,
}
POCKET_FACTOR = 4  # pixels to a latent along a side
BASE_PARTS = ("vae", "decoder", "text")  # runs whose networks are shipped within the base


@dataclass(frozen=True)
class Workshop:
    """The folders of one family's training.

    Attributes:
        runs: state, logs and exports, one folder a stage.
        data: rendered Terra and cached latents.
        photos: photographs, for super-resolution and the decoder.
        shipped: finished weights to fall back on for stages that were not trained here.
        terra: which world, and how much of it.
        device: where to train.
    """

    runs: Path
    data: Path
    photos: Path
    shipped: Path
    terra: TerraConfig
    device: torch.device

    @property
    def own(self) -> dict[str, object] | None:
        """What ``data`` says of itself, where it is a training set of people's own pictures."""
        return read_json(self.data / PROGRESS) if (self.data / PROGRESS).is_file() else None

    def store(self, edited: bool = False) -> TerraStore:
        """Rendered Terra, or the first of its scenes after their change; renders what is missing first."""
        t, workers, device = self.terra, max(1, os.cpu_count() or 1), str(self.device)
        if edited:
            count = min(t.edits, t.scenes)  # both pictures of a pair are needed
            device = drawn_on(self.data / "terra", device)  # both pictures of a pair show the same scene
            return render_store(self.data / "edited", count, t.seed, t.size, 0, workers, edited=True, device=device)
        return render_store(self.data / "terra", t.scenes, t.seed, t.size, 0, workers, device=device)

    def part(self, stage: str, name: str) -> Path:
        """The folder of one network: from this workshop's run if there is one, else as shipped.

        Raises:
            FileNotFoundError: neither exists; the message names the command that trains it.
            ValueError: its training isn't finished: what stands on it would have to be made again.
        """
        refuse_unfinished(self.runs / stage)
        home = f"{stage}/undistilled" if stage in TASKS else "base"
        for folder in (self.runs / stage / "export" / name, self.shipped / home / name):
            if folder.is_dir():
                return folder
        if is_fetched(self.shipped, f"{home}/{name}"):
            raise FileNotFoundError(f"there is no {self.shipped / home / name}; {remedy(self.shipped)}")
        raise FileNotFoundError(f"no trained {name} yet; train it with: python -m cdd_core train --stage {stage}")

    def _finished_vae(self) -> Path:
        """The autoencoder with its decoder sharpened, if that was done; both have the same latents."""
        sharpened = self.runs / "decoder" / "export" / "vae"
        refuse_unfinished(sharpened.parents[1])
        return sharpened if sharpened.is_dir() else self.part("vae", "vae")

    def components(self) -> Components:
        """The trained networks that every task shares."""
        if not (self.runs / "base" / "export").is_dir():
            refuse_missing(self.shipped)
            return load_components(self.shipped / "base").to(self.device, torch.float32)
        return Components(
            vae=load_module(self._finished_vae()),
            tokenizer=CLIPTokenizer.from_pretrained(self.part("base", "tokenizer")),
            text_encoder=load_text_encoder(self.part("base", "text_encoder")),
            unet=load_module(self.part("base", "unet")),
            scheduler=scheduler_config(),
        ).to(self.device, torch.float32)

    def latents(self, components: Components, task: str = "") -> LatentSet:
        """Latents and texts for a task, or captions alone; encodes what is missing first.

        Where ``data`` is a training set of people's own pictures, that is read instead.
        """
        if self.own is not None:
            return open_own(self.data, components, task, self.gamma(task), self.device)
        if task in EDGES:
            raise ValueError(f"{task} is learnt from one's own pictures; gather some first: python -m cdd_core take-in")
        vae, tokenizer = components.vae.to(self.device), components.tokenizer
        if latents_factor(vae) != POCKET_FACTOR:
            raise ValueError(
                f"{self.data} holds no training set of one's own, and Terra is for the pocket family; gather pictures "
                f"with python -m cdd_core take-in, and name their folder with --data"
            )
        store, folder, world = self.store(), self.data / "latents", Terra(self.terra.seed, 64)
        scaling = float(vae.config.scaling_factor)
        cache_latents(store, vae, folder)
        if task == "edit":
            edited, after = self.store(edited=True), self.data / "edited-latents"
            cache_latents(edited, vae, after)
            cache_instructions(len(edited), world, tokenizer, after)
            return LatentSet.open_pairs(folder, after, store, edited, tokenizer, self.device, scaling)
        if task == "upscale":
            squares, photos = self.squares(), self.data / "squares"
            cache_latents(squares, vae, photos, squares.identity)
            cache_shown(squares, vae, photos, self.terra.seed, squares.identity)
            cache_shown(store.first(self.terra.enlarged), vae, folder, self.terra.seed)
            return LatentSet.open_shown([folder, photos], store, tokenizer, self.device, scaling)
        cache_tokens(store, world, tokenizer, folder)
        return LatentSet.open(folder, store, tokenizer, self.device)

    def gamma(self, task: str) -> float:
        """Exponent of the family's depth conditions, as the undistilled model's card has it."""
        card = self._card(task)
        return card.condition_gamma if card else POCKET_GAMMA

    def adapter(self, task: str) -> str:
        """How the condition enters the family's undistilled model, likewise."""
        card = self._card(task)
        return card.adapter if card else TASKS[task].adapter

    def sizes(self, task: str) -> tuple[int, ...]:
        """Pixels a side that it can draw beside its own size, likewise."""
        card = self._card(task)
        return card.sizes if card else ()

    def _card(self, task: str) -> Card | None:
        home = self.shipped / task / "undistilled"
        return Card.read(home) if (home / CARD).is_file() else None

    def squares(self) -> Crops:
        """Squares of the photographs that training may see; cut first if need be."""
        return cut_crops(self.photos, self.data / "squares", self.terra.squares, self.terra.size)

    def stage(self, name: str, config: StageConfig) -> Stage:
        """Build a stage ready for :func:`trainer.train`; initial weights depend on the config's seed alone."""
        if (start := _start_of(config)) is not None:
            refuse_unfinished(start)
        with torch.random.fork_rng():
            torch.manual_seed(config.loop.seed)
            return self._stage(name, config).to(memory_format=torch.channels_last)

    def _stage(self, name: str, config: StageConfig) -> Stage:
        if isinstance(config, VaeConfig):
            return VaeStage(config, self.store())
        if isinstance(config, DecoderConfig):
            squares = self.squares() if self.photos.is_dir() else None
            return DecoderStage(config, self.store(), load_module(self.part("vae", "vae")), squares)
        if isinstance(config, ProbeConfig):
            return ProbeStage(config, self.store())
        if isinstance(config, TextConfig):
            tokenizer = build_tokenizer()
            encoder = (
                load_text_encoder(Path(config.start)) if config.start else build_text_encoder(config.net, tokenizer)
            )
            return TextStage(config, encoder, tokenizer)
        if isinstance(config, DenoisingConfig):
            return self._denoising_stage(config)
        components = self.components()
        data = self.latents(components, config.task)
        stage = DistillationStage(config, components, self._undistilled(config), data)
        if config.go_on_from:
            stage.go_on_from(Path(config.go_on_from))
        return stage

    def _denoising_stage(self, config: DenoisingConfig) -> DenoisingStage:
        if config.condition:
            components = self.components()
        else:
            components = Components(
                vae=load_module(self.part("vae", "vae")),
                tokenizer=CLIPTokenizer.from_pretrained(self.part("text", "tokenizer")),
                text_encoder=load_text_encoder(self.part("text", "text_encoder")),
                unet=build_unet(config.net),
                scheduler=scheduler_config(),
            ).to(self.device, torch.float32)
        stage = DenoisingStage(config, components, self.latents(components, config.condition))
        if config.start:
            (network,) = stage.student.values()
            network.load_state_dict(load_module(Path(config.start)).state_dict())
        return stage

    def _undistilled(self, config: CddConfig) -> nn.ModuleDict | None:
        if not config.needs_undistilled:
            return None
        name = "controlnet" if self.adapter(config.task) == "controlnet" else "unet"
        return nn.ModuleDict({name: load_module(self.part(config.task, name)).to(self.device)})

    def record(self, run: Path, config: StageConfig, stage: str, preset: str, command: str) -> None:
        """Keep beside the run what it is, see :func:`provenance.begin`."""
        ancestors: dict[str, Path] = {}
        if (start := _start_of(config)) is not None:
            ancestors["start"] = start
        if stage in (*TASKS, "distill"):
            ancestors["base"] = self._home("base", "base")
        if isinstance(config, CddConfig) and config.needs_undistilled:
            ancestors["undistilled"] = self._home(config.task, f"{config.task}/undistilled")
        task = getattr(config, "task", stage)
        data = self._learnt_from(task)
        record = {"stage": stage, "preset": preset, "command": command, "data": data, "config": asdict(config)}
        if task in TASKS:
            record[CARD_FACTS] = self.card_facts(task)
        if self.own is not None:
            record["pictures"] = f"{self.own.get('source', 'unknown')}, {self.own['size']} px"
        begin(run, record, ancestors)

    def card_facts(self, task: str) -> dict[str, object]:
        """What the card of a model that is trained here will say, and its recipe doesn't."""
        return {"condition_gamma": self.gamma(task), "sizes": list(self.sizes(task)), "own": self.own is not None}

    def _home(self, run: str, shipped: str) -> Path:
        """The folder of a finished run, or of what is shipped in its place, as :meth:`part` chooses."""
        own = self.runs / run
        return own if (own / "export").is_dir() else self.shipped / shipped

    def _learnt_from(self, stage: str) -> str:
        """What a stage or task learns from, in words."""
        if self.own is not None:
            return f"{self.own['rows']:,} pictures of one's own"
        t = self.terra
        scenes = min(t.enlarged, t.scenes) if stage == "upscale" else t.scenes
        said = f"Terra: {scenes:,} rendered landscapes, seed {t.seed}"
        if stage == "text":
            return f"captions and instructions of Terra, seed {t.seed}"
        if stage == "edit":
            return f"{said}; {min(t.edits, t.scenes):,} of them once more after a change"
        if stage == "upscale" or (stage == "decoder" and self.photos.is_dir()):
            return f"{said}; {t.squares:,} squares of photographs (docs/photos.md)"
        return said


def _start_of(config: StageConfig) -> Path | None:
    """The run, or the shipped folder, with the weights that a training names to begin with; None if it names none."""
    if going_on := str(getattr(config, "go_on_from", "")):
        return _home_of(Path(going_on))
    start = Path(str(getattr(config, "start", "")))
    return _home_of(start.parent) if len(start.parts) > 1 else None  # else "base" or "undistilled"


def _home_of(networks: Path) -> Path:
    """The run whose export this folder is, or the folder itself where it is shipped: where the record lies."""
    return networks.parent if networks.name == "export" else networks
