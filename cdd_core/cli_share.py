"""The verbs that bring weights in from elsewhere and hand them out; heavy imports wait until one runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cdd_core.verbs import refuse


@dataclass(frozen=True)
class Fetch:
    """Bring public models into checkpoints/, in the layout of our own, with the cards they lack."""

    family: str
    """A row of the catalogue's families, such as sd15."""
    out: Path = Path("checkpoints")
    catalogue: Path = Path("checkpoints/cards.yaml")
    source: Path | None = None
    """A folder of repositories OWNER/NAME to take instead of the Hub's."""
    distilled: str = ""
    """OWNER/NAME of distilled weights for this family, shared by push; they become its TASK/distilled."""

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        from cdd_core.families import fetch, fetch_distilled, read_families
        from cdd_core.repositories import Folder, Hub

        families = read_families(self.catalogue)
        if self.family not in families:
            raise ValueError(f"the family is one of {', '.join(families)}, not {self.family!r}")
        home, source = self.out / self.family, Folder(self.source) if self.source else Hub()
        fetch(families[self.family], home, source)
        if self.distilled:
            fetch_distilled(self.distilled, home, source)
        print(f"models in {home}")


@dataclass(frozen=True)
class Convert:
    """Turn a ControlNet in Flax, as CoDi's authors published theirs, into a folder that diffusers loads."""

    weights: Path
    """Its diffusion_flax_model.msgpack."""
    config: Path
    """Its config.json."""
    out: Path

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        from cdd_core.flax_weights import convert_flax_controlnet

        convert_flax_controlnet(self.weights, self.config, self.out)
        print(f"weights in {self.out}")


@dataclass(frozen=True)
class Push:
    """Share on the Hub: distilled weights with their model card, or the demo as a Space."""

    kind: Literal["model", "space"]
    repository: str
    """OWNER/NAME on the Hub."""
    folder: Path = Path("checkpoints/pocket/depth/distilled")
    """Of the weights, or of the checkout with the demo."""
    licence: str = "mit"
    """As the Hub names it; mit is right for the pocket family alone."""
    data: str = "Not stated."
    """What the weights were trained on, and by what right."""
    base: str = ""
    """Repository of the base that the weights belong to."""
    results: Path | None = None
    """results.json of evaluate, for the card."""
    private: bool = True
    """Of a new repository."""
    dry_run: bool = False
    """Write everything to out and push nothing."""
    out: Path = Path("runs/push")

    def run(self, extra: list[str]) -> None:
        refuse(extra)
        from cdd_core.publish import Told, push, write_model, write_space

        out = self.out / self.repository.replace("/", "--")
        shutil.rmtree(out, ignore_errors=True)
        if self.kind == "space":
            write_space(self.folder, out)
        else:
            if not self.base:
                raise ValueError("say which base these weights belong to: --base OWNER/NAME, its repository")
            rows = json.loads(self.results.read_text(encoding="utf-8"))["rows"] if self.results else ()
            write_model(self.folder, out, self.repository, Told(self.licence, self.data, self.base, tuple(rows)))
        if self.dry_run:
            print(f"would push {out}")
            return
        print(push(out, self.repository, self.kind, self.private))
