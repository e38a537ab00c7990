"""What the page offers: the models that exist and the example depth maps, both as rows of YAML."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from PIL import Image

from app.schema import LaneKey, TaskName
from app.settings import Settings


@dataclass(frozen=True)
class ModelRow:
    """A model, named for people."""

    name: str
    family: str
    task: str
    variant: str
    folder: Path
    label: str


@dataclass(frozen=True)
class Stored:
    """A result drawn once for an example, seen before anything is drawn: which lane, how many steps, what it cost.

    ``family`` is whose models drew it.
    """

    file: Path
    lane: LaneKey
    variant: str
    steps: int
    nfe: int
    family: str = "pocket"

    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        with Image.open(self.file) as picture:
            return picture.size


@dataclass(frozen=True)
class Example:
    """A depth map or picture to try, with what to draw or change, and where it comes from.

    ``stored`` holds what the shipped models made of it, written by ``assets/store_results.py``; ``truth`` is what a
    picture should become that is changed as the prompt says, where that is known.
    """

    file: Path
    title: str
    prompt: str
    source: str
    licence: str
    task: TaskName = "depth"
    stored: tuple[Stored, ...] = ()
    truth: Path | None = None


@dataclass(frozen=True)
class Catalog:
    """Everything on offer; either part may be empty."""

    models: tuple[ModelRow, ...] = ()
    examples: tuple[Example, ...] = ()

    def offers(self, task: TaskName) -> bool:
        """There are examples for a task."""
        return any(example.task == task for example in self.examples)

    def truth(self, task: TaskName, picture: Path, prompt: str) -> Path | None:
        """What a picture should become, if it is one of the examples; to be edited, it has to be with its prompt."""
        for example in self.examples:
            alike = example.task == task and (task != "edit" or example.prompt == prompt.strip())
            if alike and example.truth is not None and _same(example.file, picture):
                return example.truth
        return None

    def label(self, family: str, task: str, variant: str) -> str:
        """What to call a variant; its own name if the catalogue has no row for it."""
        labels = {(row.family, row.task, row.variant): row.label for row in self.models}
        return labels.get((family, task, variant), variant)


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same; an upload may be gone by now."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except FileNotFoundError:
        return False


def read_catalog(settings: Settings) -> Catalog:
    """Read both files; a file that isn't there is an empty part, and an example without its picture is left out.

    Raises:
        ValueError: a file is there, and its rows are not of this version.
    """
    models = _rows(settings.checkpoints / "cards.yaml", "models", "folder")
    examples = _rows(settings.examples / "examples.yaml", "examples", "file")
    stored = _rows(settings.examples / "stored" / "stored.yaml", "stored", "file")
    try:
        results: dict[str, list[Stored]] = {}
        for row in stored:
            own = dict(row)
            results.setdefault(str(own.pop("example")), []).append(Stored(**own))
        catalog = Catalog(
            tuple(ModelRow(**row) for row in models),
            tuple(_example(row, tuple(results.get(row["file"].name, ()))) for row in examples),
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"cards.yaml or examples.yaml has a row this version can't read: {error}") from error
    return Catalog(catalog.models, tuple(e for e in catalog.examples if e.file.is_file()))


def _example(row: Mapping[str, object], stored: tuple[Stored, ...]) -> Example:
    example = Example(**row, stored=stored)
    return replace(example, truth=example.file.parent / example.truth) if example.truth is not None else example


def _rows(path: Path, key: str, place: str) -> list[dict]:
    """The rows of a YAML file, as a list or under ``key``, their ``place`` made relative to the file's folder."""
    if not path.is_file():
        return []
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    rows = content.get(key, []) if isinstance(content, Mapping) else content
    if not all(isinstance(row, Mapping) and place in row for row in rows):
        raise ValueError(f"{path} has a row without {place!r}")
    return [{**row, place: path.parent / row[place]} for row in rows]
