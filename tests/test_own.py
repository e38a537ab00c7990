"""People's own pictures: taken in, distilled on, resumed, exported, and loaded by stock pipelines."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import shlex
import shutil
import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from pictures import RAMP
from PIL import Image
from sd_shaped import family, write_repositories
from test_conditions import tiny
from tiny import PowerCutError

from app.engine import Engine
from app.schema import CompareRequest
from app.settings import Settings
from cdd_core import trainer
from cdd_core.__main__ import main
from cdd_core.checkpoint import read_json, write_json
from cdd_core.config import LoopConfig, TerraConfig
from cdd_core.data.latents import encode
from cdd_core.data.own import OwnSet, open_own, take_in
from cdd_core.data.sources import FolderSource, open_source
from cdd_core.denoiser import frozen
from cdd_core.estimator import load_estimator
from cdd_core.families import fetch
from cdd_core.images import ImageError, to_picture
from cdd_core.loading import load
from cdd_core.models import Components, embed_prompts, load_components, load_module
from cdd_core.provenance import EXPORTED, STATE
from cdd_core.publish import SPACE
from cdd_core.recipes import CDD_PRESETS
from cdd_core.repositories import Folder
from cdd_core.shipping import export_run
from cdd_core.stages.distillation import DistillationStage
from cdd_core.workshop import Workshop

ROOT = Path(__file__).parents[1]
COUNT = 16


pytestmark = pytest.mark.usefixtures("quiet_diffusers")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fetched family in miniature, with a depth estimator."""
    root = tmp_path_factory.mktemp("own")
    write_repositories(root / "hub", None)
    fetch(family("epsilon"), root / "sd", Folder(root / "hub"))
    tiny(root / "sd" / "estimator")
    return root / "sd"


@pytest.fixture(scope="module")
def components(home: Path) -> Components:
    """Frozen from the beginning, as stages leave them: torch takes other kernels for what has gradients."""
    loaded = load_components(home / "base").to(torch.device("cpu"), torch.float32)
    for network in (loaded.vae, loaded.text_encoder, loaded.unet):
        frozen(network)
    return loaded


def picture(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize((90, 72), Image.Resampling.BICUBIC)


def as_png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pictures, one of them broken; captions in both ways, some without."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    for number in range(COUNT):
        picture(number).save(folder / ("sub" if number % 2 else ".") / f"{number:02d}.png")
    (folder / "99.png").write_bytes(b"broken")
    (folder / "00.txt").write_text("a lake\n")
    rows = [{"file_name": "sub/01.png", "caption": "night"}, {"file_name": "02.png", "text": "dunes"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def test_a_folder_knows_its_captions(photos: Path):
    found = {example.name: example for example in FolderSource(photos).examples(0)}
    assert len(found) == COUNT + 1
    assert {name: example.caption for name, example in found.items() if example.caption} == {
        "00.png": "a lake",
        "sub/01.png": "night",
        "02.png": "dunes",
    }
    assert [name for name, example in found.items() if example.picture is None] == ["99.png"]
    rest = [example.name for example in FolderSource(photos).examples(5)]
    assert rest == list(found)[5:]


def test_shards_and_datasets_are_the_same_pictures(photos: Path, tmp_path: Path):
    pytest.importorskip("webdataset", reason="no webdataset: pip install webdataset")
    datasets = pytest.importorskip("datasets", reason="no datasets: pip install datasets")
    for number in range(3):
        with tarfile.open(tmp_path / f"shard-{number}.tar", "w") as tar:
            files = ((f"{number}.png", as_png(picture(number))), (f"{number}.txt", f"words {number}".encode()))
            for name, data in files:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    for pattern in ("shard-{0..2}.tar", "shard-{0,1}.tar,{}/shard-2.tar".replace("{}", str(tmp_path))):
        shards = list(open_source(str(tmp_path / pattern), "", "", "").examples(1))
        assert [(example.name, example.caption) for example in shards] == [("1", "words 1"), ("2", "words 2")]
        assert np.array_equal(np.asarray(shards[0].picture), np.asarray(picture(1)))
    held = [{"bytes": content, "path": None} for content in (as_png(picture(0)), as_png(picture(1)), b"broken")]
    words = [f"words {k}" for k in range(3)]
    made = datasets.Dataset.from_dict({"image": held, "text": words, "other": words})
    made.cast_column("image", datasets.Image(decode=False)).to_parquet(tmp_path / "data" / "train-0.parquet")
    place = f"hub:{tmp_path / 'data'}"
    rows = list(open_source(place, "train", "image", "text").examples(1))
    assert [example.caption for example in rows] == ["words 1", "words 2"]
    assert np.array_equal(np.asarray(rows[0].picture), np.asarray(picture(1)))
    assert rows[1].picture is None, "a broken one costs itself alone"
    everything = open_source(str(tmp_path / "shard-{0..2}.tar"), "", "", "").identity(1)
    assert open_source(str(tmp_path / "shard-{0..1}.tar"), "", "", "").identity(1) != everything
    assert len({open_source(place, "train", "image", column).identity(1) for column in ("text", "other")}) == 2
    with pytest.raises(ValueError, match="no column 'img'; name one with --image-column"):
        open_source(place, "train", "img", "text")
    with pytest.raises(ValueError, match="no column 'caption'; name one with --caption-column"):
        open_source(place, "train", "image", "caption")
    assert next(open_source(place, "train", "image", "").examples(0)).caption == ""
    said = datasets.Dataset.from_dict({"image": held, "text": [[f"words {k}", "others"] for k in range(3)]})
    said.cast_column("image", datasets.Image(decode=False)).to_parquet(tmp_path / "many" / "train-0.parquet")
    assert next(open_source(f"hub:{tmp_path / 'many'}", "train", "image", "text").examples(0)).caption == "words 0"


def test_a_flat_picture_costs_itself_alone(home: Path, components: Components, tmp_path: Path, caplog):
    """No depth is found in it; before, it stopped the whole set, at every start again."""
    (tmp_path / "some").mkdir()
    for number in range(3):
        picture(number).save(tmp_path / "some" / f"{number}.png")
    Image.new("RGB", (80, 80)).save(tmp_path / "some" / "1.png")
    Image.new("F", (80, 80), 0.5).save(tmp_path / "some" / "3.tiff")

    class Estimator:
        def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
            if (pictures.amax((1, 2, 3)) == 0).any():
                raise ImageError("No depth was found.")
            return pictures[:, :1]

    caplog.set_level(logging.WARNING, "cdd_core")
    assert take_in(FolderSource(tmp_path / "some"), components, tmp_path / "own", 64, Estimator(), 9) == 2
    kept = np.fromfile(tmp_path / "own" / "disparity.bin", np.uint8).reshape(2, 64, 64)
    shown = np.fromfile(tmp_path / "own" / "image.bin", np.uint8).reshape(2, 3, 64, 64)
    np.testing.assert_array_equal(kept, shown[:, 0])
    assert "1.png is left out: no depth" in caplog.text
    assert "3.tiff is left out" in caplog.text


@pytest.mark.parametrize("place", ["nowhere", ""])
def test_places_that_are_none_are_told(place: str, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"is no folder|holds no pictures"):
        open_source(str(tmp_path / place), "train", "image", "text")


@pytest.fixture(scope="module")
def taken(photos: Path, home: Path, components: Components, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taken") / "own"
    estimator = load_estimator(home / "estimator")
    assert take_in(FolderSource(photos), components, folder, 64, estimator, 1000) == COUNT
    return folder


def test_rows_are_what_the_networks_make_of_the_pictures(taken: Path, photos: Path, components: Components):
    data = open_own(taken, components, "depth", 1.0, torch.device("cpu"))
    assert len(data) == COUNT
    rows = torch.tensor([0, 3])
    pictures = data.store.images(rows.numpy())
    torch.testing.assert_close(data.x(rows), encode(components.vae, pictures), rtol=0, atol=5e-3)
    dropped = torch.tensor([False, True])
    text = data.embedded(rows, rows, dropped, components.text_encoder)
    told = embed_prompts(components, ["a lake"])
    torch.testing.assert_close(text, torch.cat([told.prompt, told.empty]), rtol=0, atol=5e-3)
    torch.testing.assert_close(data.nothing(components.text_encoder), told.empty, rtol=0, atol=5e-3)
    depth = data.condition(rows)
    assert depth.shape == (2, 3, 64, 64)
    assert 0 <= depth.min() < 0.2 < 0.8 < depth.max() <= 1
    for task, levels in (("canny", {0.0, 1.0}), ("upscale", None)):
        own = open_own(taken, components, task, 1.0, torch.device("cpu"))
        seen = own.condition(rows, pixels=True)
        assert seen.shape == (2, 3, 64, 64)
        assert levels is None or set(seen.unique().tolist()) <= levels
    scaling = components.vae.config.scaling_factor
    expected = encode(components.vae, seen * 2 - 1) / scaling
    torch.testing.assert_close(own.condition(rows), expected, rtol=0, atol=5e-3 / scaling)
    with pytest.raises(ValueError, match="no pictures before and after"):
        open_own(taken, components, "edit", 1.0, torch.device("cpu"))


@pytest.fixture(scope="module")
def pairs(components: Components, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three changes taken in, and a fourth whose first picture is missing."""
    root = tmp_path_factory.mktemp("pairs")
    rows = []
    for number in range(4):
        picture(number).save(root / f"{number}-after.png")
        if number:
            picture(10 + number).save(root / f"{number}-before.png")
        names = {"file_name": f"{number}-after.png", "before": f"{number}-before.png"}
        rows.append(names | {"instruction": f"make it {number}"})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    source = FolderSource(root)
    assert source.paired
    assert take_in(source, components, root / "own", 64, None, 1000) == 3
    with pytest.raises(ValueError, match="holds pairs"):
        take_in(HubLike(), components, root / "own", 64, None, 1000)
    return root / "own"


class HubLike:
    """A source of single pictures."""

    paired = False

    def identity(self, count: int) -> str:
        return "hub"

    def examples(self, skip: int) -> list:
        return []


def test_pairs_teach_what_was_asked_for(pairs: Path, components: Components):
    data = open_own(pairs, components, "edit", 1.0, torch.device("cpu"))
    rows, kept = torch.tensor([0, 2]), torch.tensor([False, False])
    after, before = (torch.cat([to_picture(picture(k), 64) for k in pair]) for pair in ((1, 3), (11, 13)))
    torch.testing.assert_close(data.condition(rows, pixels=True), before, rtol=0, atol=3e-3)
    scaling = components.vae.config.scaling_factor
    given = encode(components.vae, before * 2 - 1) / scaling
    torch.testing.assert_close(data.condition(rows), given, rtol=0, atol=0.02 / scaling)
    torch.testing.assert_close(data.x(rows), encode(components.vae, after * 2 - 1), rtol=0, atol=0.02)
    told = embed_prompts(components, ["make it 1", "make it 3"]).prompt
    torch.testing.assert_close(data.embedded(rows, rows, kept, components.text_encoder), told, rtol=0, atol=5e-3)


def test_a_change_without_words_is_told(tmp_path: Path):
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "before": "b.png"}')
    with pytest.raises(ValueError, match="line 1, is not JSON with a file_name, and an instruction"):
        FolderSource(tmp_path)


def test_low_rank_changes_of_ones_own_load_in_stock_pipelines(
    home: Path, taken: Path, components: Components, tmp_path: Path
):
    data = open_own(taken, components, "depth", 1.0, torch.device("cpu"))
    config = replace(CDD_PRESETS["sd-best"], scope="lora", lora_rank=2)
    net = load_module(home / "depth" / "undistilled" / "controlnet")
    stage = DistillationStage(config, components, torch.nn.ModuleDict({"controlnet": net}), data)
    unet, generator = stage.student["unet"], torch.Generator().manual_seed(0)
    for value in (p for p in unet.parameters() if p.requires_grad):
        value.data += 0.1 * torch.randn(value.shape, generator=generator)
    stage.export(stage.student, tmp_path)
    pipe = StableDiffusionControlNetPipeline.from_pretrained(home / "base", controlnet=net, torch_dtype=torch.float32)
    given = (
        torch.randn(2, 4, 8, 8, generator=generator),
        torch.tensor([3, 900]),
        torch.randn(2, 7, 32, generator=generator),
    )
    before = pipe.unet(*given).sample
    pipe.load_lora_weights(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors")
    torch.testing.assert_close(pipe.unet(*given).sample, unet(*given).sample, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(pipe.unet(*given).sample, before, atol=1e-3)


def test_editing_and_enlarging_are_distilled_from_own_pictures(
    home: Path, pairs: Path, taken: Path, components: Components
):
    """Full scope takes latents; the public upscaler is a ControlNet and takes pictures."""
    for task, kind, scope, folder in (
        ("edit", "unet", "full", pairs),
        ("upscale", "unet", "full", taken),
        ("upscale", "controlnet", "adapter", taken),
        ("upscale", "controlnet", "lora", taken),
    ):
        data = open_own(folder, components, task, 1.0, torch.device("cpu"))
        config = replace(CDD_PRESETS["sd-best"], task=task, scope=scope, lora_rank=2)
        part = load_module(home / ("depth" if kind == "controlnet" else "edit") / "undistilled" / kind)
        stage = DistillationStage(config, components, torch.nn.ModuleDict({kind: part}), data)
        assert torch.isfinite(stage(stage.draw(torch.Generator().manual_seed(0), 2))["loss"])


def test_a_family_says_how_its_condition_enters(home: Path, taken: Path, tmp_path: Path):
    """Stable Diffusion enlarges by a ControlNet, the pocket family by further channels."""
    shutil.copytree(home / "depth" / "undistilled", tmp_path / "sd" / "upscale" / "undistilled")
    (tmp_path / "sd" / "base").symlink_to(home / "base")
    shop = Workshop(tmp_path, taken, tmp_path, tmp_path / "sd", TerraConfig(), torch.device("cpu"))
    assert (shop.adapter("upscale"), shop.adapter("edit")) == ("controlnet", "concat")
    config = replace(CDD_PRESETS["sd-best"], task="upscale", scope="full", loop=LoopConfig(1, 2, 1e-4))
    run = tmp_path / "run"
    stage = shop.stage("distill", config)
    stage.export(stage.student, run / "export")
    shop.record(run, config, "distill", "sd-best", "distill")
    place = tmp_path / "sd" / "upscale" / "distilled"
    elsewhere = replace(shop, data=tmp_path, shipped=tmp_path / "pocket")  # who exports need not say it all again
    (tmp_path / "pocket").mkdir()
    (tmp_path / "pocket" / "base").symlink_to(home / "base")
    export_run(elsewhere, run, place)
    card = load(tmp_path / "sd", "upscale").card
    assert (card.adapter, card.condition_gamma, card.sizes) == ("controlnet", 1.0, (96,))
    assert "card" not in card.provenance
    write_json(run / "export" / EXPORTED, {"step": 0})
    with pytest.raises(ValueError, match="has come to step 0 of 1; let it end"):
        export_run(shop, run, place)
    (run / "export" / EXPORTED).unlink()
    shutil.rmtree(run / "export" / "unet")  # the next recipe trains an adapter alone
    export_run(shop, run, place)
    assert [path.name for path in sorted(place.iterdir()) if path.is_dir()] == ["controlnet"]
    (place / "cdd.json").unlink()
    with pytest.raises(ValueError, match="holds something else than exported weights"):
        export_run(shop, run, place)
    assert (place / "controlnet").is_dir()


def test_taking_in_resumes_where_it_was_cut_off(
    photos: Path, home: Path, components: Components, taken: Path, tmp_path: Path
):
    estimator = load_estimator(home / "estimator")
    assert take_in(FolderSource(photos), components, tmp_path, 64, estimator, 8) == 8
    with (tmp_path / "latents.bin").open("ab") as file:
        file.write(b"half a row, for the power went off")
    assert take_in(FolderSource(photos), components, tmp_path, 64, estimator, 1000) == COUNT
    for name in ("latents.bin", "texts.bin", "image.bin", "disparity.bin"):
        assert (tmp_path / name).read_bytes() == (taken / name).read_bytes()
    with pytest.raises(ValueError, match="another autoencoder, text encoder, size or estimator"):
        take_in(FolderSource(photos), components, tmp_path, 32, estimator, 1000)


def test_a_run_does_not_go_on_with_other_pictures(home: Path, components: Components, tmp_path: Path):
    """Not with as many others either: a run's record says which it learnt from."""
    config = replace(CDD_PRESETS["sd-best"], loop=LoopConfig(1, 2, 1e-4))
    sets = []
    for name in ("some", "others"):
        (tmp_path / name).mkdir()
        picture(0).save(tmp_path / name / f"{name}.png")
        take_in(FolderSource(tmp_path / name), components, tmp_path / f"{name}-set", 64, None, 9)
        shop = Workshop(tmp_path, tmp_path / f"{name}-set", tmp_path, home, TerraConfig(), torch.device("cpu"))
        sets.append(shop)
    for _ in range(2):
        sets[0].record(tmp_path / "run", config, "distill", "sd-best", "distill")
        (tmp_path / "run" / STATE).touch()  # it has begun
    with pytest.raises(
        ValueError, match="was begun with pictures = [0-9a-f]{12}, 64 px, not [0-9a-f]{12}, 64 px; go on"
    ):
        sets[1].record(tmp_path / "run", config, "distill", "sd-best", "distill")


def test_a_set_knows_which_pictures_it_holds(photos: Path, components: Components, tmp_path: Path):
    """Others don't go unread behind those that it has, and none is taken twice."""
    shutil.copytree(photos, tmp_path / "photos")
    count = len(FolderSource(photos))
    assert take_in(FolderSource(photos), components, tmp_path / "own", 64, None, 1000) == COUNT
    picture(90).save(tmp_path / "photos" / "zz.png")
    with_one_more = FolderSource(tmp_path / "photos")
    assert with_one_more.identity(count) == FolderSource(photos).identity(count), "wherever the folder lies"
    assert take_in(with_one_more, components, tmp_path / "own", 64, None, 1000) == COUNT + 1
    picture(91).save(tmp_path / "photos" / "05b.png")
    with pytest.raises(ValueError, match="holds other pictures, or some have come or gone"):
        take_in(FolderSource(tmp_path / "photos"), components, tmp_path / "own", 64, None, 1000)
    (tmp_path / "photos" / "05b.png").unlink()
    (tmp_path / "photos" / os.fsdecode(b"z\xff.png")).write_bytes(b"a name in no encoding")
    assert len({FolderSource(tmp_path / "photos").identity(count + k) for k in range(3)}) == 3
    (tmp_path / "photos" / "zz.png").rename(tmp_path / "photos" / "zy.png")
    with pytest.raises(ValueError, match="holds other pictures"):
        take_in(FolderSource(tmp_path / "photos"), components, tmp_path / "own", 64, None, 1000)


def test_captions_that_say_nothing_or_are_badly_written(tmp_path: Path):
    for name in ("a", "b", "c"):
        picture(0).save(tmp_path / f"{name}.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "caption": null, "text": "dunes"}\n')
    (tmp_path / "metadata.jsonl").open("a").write('{"file_name": "b.png", "caption": null}\n')
    (tmp_path / "c.txt").write_bytes("Ein Hügel".encode("latin-1"))
    assert [example.caption for example in FolderSource(tmp_path).examples(0)] == ["dunes", "", "Ein H\ufffdgel"]


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_sets_of_another_encoder_are_refused(part: str, taken: Path, components: Components, tmp_path: Path):
    """Latents and embedded captions mean something by their own encoders alone."""
    other = replace(components, **{part: copy.deepcopy(getattr(components, part))})
    for parameter in getattr(other, part).parameters():
        parameter.data += 1
    with pytest.raises(ValueError, match="another autoencoder or text encoder"):
        open_own(taken, other, "depth", 1.0, torch.device("cpu"))
    with pytest.raises(FileNotFoundError, match="holds no training set"):
        open_own(tmp_path, components, "depth", 1.0, torch.device("cpu"))


@pytest.mark.parametrize("preset", ["sd-paper", "sd-best"])
def test_losses_of_noise_predicting_models_are_finite_at_every_noise(
    preset: str, home: Path, taken: Path, components: Components
):
    data: OwnSet = open_own(taken, components, "depth", 1.0, torch.device("cpu"))
    config = replace(CDD_PRESETS[preset], loop=LoopConfig(1, 16, 1e-4))
    undistilled = load(home, "depth", "undistilled").denoiser.adapter.net
    parts = torch.nn.ModuleDict({"controlnet": undistilled}) if config.needs_undistilled else None
    stage = DistillationStage(config, components, parts, data)
    losses = stage(stage.draw(torch.Generator().manual_seed(0), 16))
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss"] < 50, "one noisy sample does not drown the others"


def test_the_command_line_estimates_depth_of_a_photo(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    picture(0).save(tmp_path / "photo.png")
    command = ["sample", "--model", home, "--image", tmp_path / "photo.png", "--variant", "lcm", "--steps", "1"]
    drawn = []
    for more in (["--estimate"], []):
        assert main([str(word) for word in [*command, "--out", tmp_path, *more]]) == 0, capsys.readouterr().err
        drawn.append((tmp_path / "x0_00.png").read_bytes())  # the final one tells how it was made, too
    assert drawn[0] != drawn[1]


def commands() -> list[list[str]]:
    """What docs/distil-your-own.md tells people to type."""
    lines = (ROOT / "docs" / "distil-your-own.md").read_text(encoding="utf-8").splitlines()
    return [shlex.split(line)[3:] for line in lines if line.startswith("python -m cdd_core")]


# Miniature models and sixteen pictures instead of the real ones, and twenty steps.
SMALL = {
    "fetch": ["--source", "hub", "--catalogue", "cards.yaml"],
    "take-in": ["--device", "cpu"],
    "distill": ["--device", "cpu", "--loop.steps", "20", "--loop.batch", "4", "--loop.warmup-steps", "2"],
    "export": ["--device", "cpu"],
    "sample": [],
    "push": [],
}


def cut_off(command: list[str]) -> None:
    """Run a training that saves at every step, and end it half way."""
    average = trainer._average

    def mortal(averaged: torch.nn.Module, student: torch.nn.Module, config: LoopConfig, step: int) -> None:
        if step == 10:
            raise PowerCutError
        average(averaged, student, config, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_average", mortal)
        with pytest.raises(PowerCutError):
            main([*command, "--loop.save-minutes", "0"])
    (run,) = (Path("runs") / "sd15").iterdir()
    assert read_json(run / "export" / EXPORTED) == {"step": 10}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_whole_story_by_the_commands_of_the_guide(
    prediction: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """Fetch, take in, dry run, distil, be cut off and go on, export, draw, share; then load the result in stock
    diffusers, and compare it in the demo with its teacher and the public rival."""
    monkeypatch.chdir(tmp_path)
    write_repositories(tmp_path / "hub", None if prediction == "epsilon" else prediction)
    tiny(tmp_path / "hub" / "maker" / "estimator")
    row = replace(family(prediction), name="sd15", estimator="maker/estimator")
    (tmp_path / "cards.yaml").write_text(
        yaml.safe_dump({"families": [asdict(row) | {"models": [asdict(m) for m in row.models]}]})
    )
    (tmp_path / "photos").symlink_to(photos)
    Image.fromarray(RAMP).save(tmp_path / "depth.png")
    for name in SPACE:
        folder = "." not in name and name != "LICENSE"
        (tmp_path / name).mkdir(parents=True, exist_ok=True) if folder else (tmp_path / name).touch()
    verbs = []
    for command in commands():
        verb, rest = command[0], command[1:]
        if verb == "distill" and "--dry-run" not in rest:
            cut_off([verb, *SMALL[verb], *rest])
        assert main([verb, *SMALL[verb], *rest]) == 0, (command, capsys.readouterr().err)
        verbs.append(verb)
        told = capsys.readouterr().out
        if "--dry-run" in rest and verb == "distill":
            assert "parameters that learn" in told
            assert "seconds a step" in told
            assert not (tmp_path / "runs" / "sd15").exists(), "nothing was trained"
    assert verbs == ["fetch", "take-in", "distill", "distill", "export", "sample", "push", "push"]
    home = tmp_path / "checkpoints" / "sd15"
    card = json.loads((home / "depth" / "distilled" / "cdd.json").read_text())
    assert (card["condition_gamma"], card["guidance"], card["samplers"]) == (1.0, 1.0, {"0": "renoise"})
    assert card["sizes"] == json.loads((home / "depth" / "undistilled" / "cdd.json").read_text())["sizes"] == [96]
    assert len(list((tmp_path / "out").glob("x0_*.png"))) == 4
    assert "Say here what you trained on" in (tmp_path / "runs/push/you--cdd-depth/README.md").read_text()
    folder = home / "depth" / "distilled" / "controlnet"
    net = ControlNetModel.from_pretrained(folder, torch_dtype=torch.float32)
    before = ControlNetModel.from_pretrained(home / "depth" / "undistilled" / "controlnet", torch_dtype=torch.float32)
    assert any(not torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))
    pipe = StableDiffusionControlNetPipeline.from_pretrained(home / "base", controlnet=net, torch_dtype=torch.float32)
    image = picture(0).resize((64, 64))
    assert pipe("a lake", image, num_inference_steps=1, guidance_scale=1.0).images[0].size == (64, 64)
    engine = Engine(Settings(checkpoints=tmp_path / "checkpoints", family="sd15", device="cpu"))
    start, *steps, _ = engine.compare(CompareRequest(tmp_path / "depth.png", "a lake", 1, 2, 2, rival="lcm"))
    assert [lane.variant for lane in start.lanes] == ["distilled", "lcm", "undistilled"]
    last = [np.asarray(step.image).tobytes() for step in steps if step.i + 1 == step.n]
    assert len(set(last)) == 3, "each draws its own picture"
