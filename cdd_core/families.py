"""Model families other than our own: where their public weights are, and how they become a folder like ours.

``fetch`` brings every part of a family into the layout of ``checkpoints/pocket`` and writes the cards that public
repositories don't have. From then on one code path loads, compares, distils and evaluates all families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from cdd_core.cards import CARD, Card
from cdd_core.checkpoint import read_json, write_json, written_whole
from cdd_core.export import MODEL_INDEX
from cdd_core.models import LORA, PREVIEW
from cdd_core.repositories import Repositories, convert_single_file
from cdd_core.safety import EXTRACTOR, NETWORK
from cdd_core.schedule import PREDICTIONS
from cdd_core.tasks import TASKS

BASE_PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
ESTIMATOR, SAFETY = "estimator", "safety"
NO_WEIGHTS = ("tokenizer", "scheduler", EXTRACTOR)
WANTED = (".json", ".txt", ".safetensors")  # never pickles
HALF = ".fp16.safetensors"
SINGLE = " as "  # between a single file and the repository of its configuration


@dataclass(frozen=True)
class ModelRow:
    """One model of a family that lies in public repositories.

    Attributes:
        task, variant: which.
        parts: ``controlnet``, ``unet`` or ``lora`` to where it lies: ``owner/name``, ``owner/name/subfolder``, or for a
            ControlNet that is one file in the layout of its authors ``owner/name/FILE as owner/name``, whose
            configuration it has.
        adapter: how the condition enters, see ``adapters``.
        stages: points of the time axis it knows.
        sampler: of every number of steps.
        guidance, image_guidance: to sample with.
        steps: a person would want first.
        note: what it is, where that needs saying.
    """

    task: str
    variant: str
    parts: Mapping[str, str]
    adapter: str = "controlnet"
    stages: int = 1000
    sampler: str = "ddim"
    guidance: float = 7.5
    image_guidance: float = 1.0
    steps: int = 50
    note: str = ""


@dataclass(frozen=True)
class FamilyRow:
    """A family in public repositories.

    Attributes:
        name: of its folder.
        base: repository of the shared parts.
        prediction_type: what its U-Net predicts, where its scheduler config doesn't say.
        condition_gamma: exponent of its depth conditions, see ``tasks.depth_condition``.
        estimator: repository of a depth estimator, for people who have photos only.
        preview: repository of a small decoder for the steps on the way.
        sizes: pixels a side that its models draw well beside their own size.
        safety: repository of a pipeline with the safety checker that its pictures should pass.
        models: of each task.
    """

    name: str
    base: str
    prediction_type: str
    condition_gamma: float = 1.0
    estimator: str = ""
    preview: str = ""
    safety: str = ""
    sizes: tuple[int, ...] = ()
    models: tuple[ModelRow, ...] = field(default_factory=tuple)


def read_families(catalogue: Path) -> dict[str, FamilyRow]:
    """The rows of ``families`` in ``cards.yaml``.

    Raises:
        ValueError: a row is not of this version, or says of its U-Net what can't be.
    """
    content = yaml.safe_load(catalogue.read_text(encoding="utf-8")) or {}
    rows = {}
    for given in content.get("families", []):
        try:
            models = tuple(ModelRow(**model) for model in given.get("models", ()))
            row = FamilyRow(**{**given, "models": models, "sizes": tuple(given.get("sizes", ()))})
        except TypeError as error:
            raise ValueError(f"{catalogue} has a family this version can't read: {error}") from error
        if row.prediction_type not in PREDICTIONS:
            raise ValueError(f"{catalogue}: the family {row.name} predicts {row.prediction_type!r}, which is unknown")
        rows[row.name] = row
    return rows


def fetch(family: FamilyRow, out: Path, source: Repositories) -> None:
    """Bring a family into ``out``; what is there already is kept.

    Args:
        family: see :class:`FamilyRow`.
        out: such as ``checkpoints/sd15``.
        source: where the repositories are.

    Raises:
        FileNotFoundError: a repository has no safetensors weights for a part.
        ValueError: a scheduler config says another prediction type than the family's row.
    """
    for part in BASE_PARTS:
        _fetch_part(f"{family.base}/{part}", out / "base" / part, source)
    scheduler = _state_prediction(out / "base" / "scheduler" / "scheduler_config.json", family)
    vae = str(read_json(out / "base" / "vae" / "config.json")["_class_name"])
    index = {**MODEL_INDEX, "vae": ["diffusers", vae], "scheduler": ["diffusers", scheduler]}
    write_json(out / "base" / "model_index.json", index)
    lacking: dict[str, str] = {}
    for model in family.models:
        name = f"{model.task}/{model.variant}"
        if why := _lacks(model.parts, out / name, source):
            lacking[name] = why
        else:
            _card(family, model).write(out / name)
    for name, place in _extras(family).items():
        if why := _lacks({name: place}, out, source):
            lacking[name] = why
    if lacking:
        told = "; ".join(f"{name}: {why}" for name, why in lacking.items())
        raise FileNotFoundError(f"all but this is here: {told}")


def _lacks(parts: Mapping[str, str], folder: Path, source: Repositories) -> str:
    """Why one of these can't be had, if so: whatever else there is, is worth having all the same."""
    try:
        for part, place in parts.items():
            _fetch_part(place, folder / part, source)
    except FileNotFoundError as error:
        return str(error)
    return ""


def fetch_distilled(repository: str, out: Path, source: Repositories) -> None:
    """Bring distilled weights that ``push`` shared into a family, and believe the card that came with them.

    Args:
        repository: ``owner/name``.
        out: the family's folder; they become its ``TASK/distilled``.
        source: where the repository is.

    Raises:
        FileNotFoundError: the repository has no ``cdd.json``, or no weights.
        ValueError: other weights are there already, or the card is of a task that is unknown here, or they belong to
            another base, as far as a configuration says so: low-rank changes have none.
    """
    files = source.files(repository)
    parts = sorted({file.split("/")[0] for file in files} & {"controlnet", "unet", LORA})
    if CARD not in files or not parts:
        raise FileNotFoundError(f"{repository} holds no distilled weights with a {CARD}; push writes it beside them")
    with TemporaryDirectory() as place:
        source.get(repository, CARD, Path(place) / CARD)
        card = Card.read(Path(place))
    if card.task not in TASKS:
        raise ValueError(f"the {CARD} of {repository} is of the task {card.task!r}; known are {', '.join(TASKS)}")
    folder = out / card.task / "distilled"
    if folder.is_dir():
        if Card.read(folder).provenance.get("repository") == repository:
            return
        raise ValueError(f"{folder} holds other distilled weights already; move them away first")
    for file in {f"{part}/config.json" for part in parts} & set(files):
        _refuse_other_base(repository, file, out / "base" / "unet" / "config.json", source)
    with written_whole(folder) as whole:
        for part in parts:
            _fetch_part(f"{repository}/{part}", whole / part, source)
        provenance = {**card.provenance, "repository": repository}
        replace(card, variant="distilled", base="../../base", provenance=provenance).write(whole)


def _refuse_other_base(repository: str, file: str, base: Path, source: Repositories) -> None:
    """A network whose configuration says that it reads other texts than the base has belongs to another one."""
    if not base.is_file():
        return
    with TemporaryDirectory() as place:
        source.get(repository, file, own := Path(place) / "config.json")
        reads, has = (read_json(path).get("cross_attention_dim") for path in (own, base))
    if None not in (reads, has) and reads != has:
        raise ValueError(
            f"the weights of {repository} belong to another base: they read texts of {reads} numbers a word, this "
            f"family's has {has}; name another --family"
        )


def missing(family: FamilyRow, out: Path) -> list[str]:
    """Parts of a family that ``out`` doesn't hold, as folders relative to it."""
    wanted = [f"base/{part}" for part in BASE_PARTS]
    wanted += _extras(family)
    for model in family.models:
        home = f"{model.task}/{model.variant}"
        wanted += [f"{home}/{part}" for part in model.parts] + [f"{home}/{CARD}"]
    return [part for part in wanted if not (out / part).exists()]


def _extras(family: FamilyRow) -> dict[str, str]:
    """Parts that not every family has: folder to where it lies."""
    places = {ESTIMATOR: family.estimator, f"base/{PREVIEW}": family.preview}
    if family.safety:
        places |= {f"{SAFETY}/{part}": f"{family.safety}/{part}" for part in (NETWORK, EXTRACTOR)}
    return {name: place for name, place in places.items() if place}


def remedy(folder: Path) -> str:
    """How to get the weights of a family that lies, or should lie, in ``folder``."""
    row = _row(folder)
    if row is not None:
        few = any(model.variant != "undistilled" for model in row.models)
        own = "distil a model of your own, as docs/distil-your-own.md says: none is set up for it"
        more = "" if few else f" (and {own})"
        return f"fetch them with: python -m cdd_core fetch --family {folder.name}{more}"
    return "fetch checkpoints/ with the repository or train them (see README)"


def refuse_missing(folder: Path, checker: bool = False) -> None:
    """Nothing if a family's shared parts are in its folder.

    Args:
        folder: of the family.
        checker: the safety checker has to be there too, if the catalogue names one.

    Raises:
        FileNotFoundError: they aren't, or the safety checker isn't; the message says what to do.
    """
    if not (folder / "base").is_dir():
        raise FileNotFoundError(f"there is no model family in {folder}; {remedy(folder)}")
    if checker and wants_safety(folder) and not (folder / SAFETY).is_dir():
        raise FileNotFoundError(f"the safety checker of {folder} isn't here: {remedy(folder)}; or: --no-safety-checker")


def is_fetched(folder: Path, part: str) -> bool:
    """Whether the catalogue beside a family's folder says where this part of it is, ``TASK/VARIANT/NETWORK``, say."""
    row = _row(folder)
    return row is not None and part in missing(row, Path())


def wants_safety(folder: Path) -> bool:
    """Whether the catalogue beside a family's folder names a safety checker for it."""
    row = _row(folder)
    return row is not None and bool(row.safety)


def _row(folder: Path) -> FamilyRow | None:
    catalogue = folder.parent / "cards.yaml"
    return read_families(catalogue).get(folder.name) if catalogue.is_file() else None


def _fetch_part(place: str, to: Path, source: Repositories) -> None:
    """One network: configuration, vocabulary and weights, in half precision where the repository has them."""
    if to.is_dir():
        return
    if SINGLE in place:
        file, configured = place.split(SINGLE)
        with TemporaryDirectory() as folder, written_whole(to) as whole:
            weights, config = Path(folder) / "weights.safetensors", Path(folder) / "config.json"
            source.get("/".join(file.split("/")[:2]), "/".join(file.split("/")[2:]), weights)
            source.get(configured, config.name, config)
            convert_single_file(weights, config, whole)
        return
    owner, name, *inner = place.split("/")
    repository, prefix = f"{owner}/{name}", "/".join([*inner, ""]) if inner else ""
    found = [file for file in source.files(repository) if file.startswith(prefix) and file.endswith(WANTED)]
    found = [file for file in found if "/" not in file[len(prefix) :]]
    weights = [file for file in found if file.endswith(".safetensors")]
    halves = [file for file in weights if file.endswith(HALF)]
    config = any(file.endswith(".json") for file in found)
    if not found or (config and not weights and to.name not in NO_WEIGHTS):
        raise FileNotFoundError(f"{place} holds no safetensors weights; pickled ones are not loaded here")
    chosen = [file for file in found if file not in weights] + (halves or weights)
    with written_whole(to) as folder:
        for file in chosen:
            source.get(repository, file, folder / Path(file).name.replace(HALF, ".safetensors"))


def _state_prediction(config: Path, family: FamilyRow) -> str:
    """Have the scheduler config say what the network predicts: old public ones leave it out. Returns its class."""
    content = read_json(config)
    stated = content.setdefault("prediction_type", family.prediction_type)
    if stated != family.prediction_type:
        raise ValueError(
            f"the scheduler of {family.base} says prediction_type={stated!r}, the family's row in cards.yaml "
            f"{family.prediction_type!r}; one of them is wrong"
        )
    write_json(config, content)
    return str(content["_class_name"])


def _card(family: FamilyRow, model: ModelRow) -> Card:
    return Card(
        task=model.task,
        variant=model.variant,
        base="../../base",
        adapter=model.adapter,
        stages=model.stages,
        samplers={0: model.sampler},
        guidance=model.guidance,
        condition_gamma=family.condition_gamma,
        steps=model.steps,
        provenance={"sources": dict(model.parts), "note": model.note},
        image_guidance=model.image_guidance,
        sizes=family.sizes,
    )
