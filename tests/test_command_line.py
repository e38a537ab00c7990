"""The command line as the README calls it, on tiny models: what it writes, what it refuses, and that it resumes."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import RAMP, RAMP8, encoded
from PIL import Image
from safetensors.torch import load_file, save_file

import cdd_core.evaluation.command as command
import cdd_core.evaluation.metrics as metrics
import cdd_core.evaluation.photos as photographs
import cdd_core.evaluation.probe as probe
import cdd_core.evaluation.runner as runner
from cdd_core.__main__ import main, run
from cdd_core.cards import Card
from cdd_core.evaluation.imagenet import Imagenet
from cdd_core.evaluation.kept import KeptRows
from cdd_core.export import export_base
from cdd_core.models import Components

N = 8
ROOT = Path(__file__).parents[1]
POCKET = ROOT / "checkpoints" / "pocket"


@pytest.fixture
def depth(tmp_path: Path) -> Path:
    path = tmp_path / "depth.png"
    path.write_bytes(encoded(Image.fromarray(RAMP)))
    return path


def test_sample_writes_every_step_and_how_it_was_made(family: Path, depth: Path, tmp_path: Path):
    out = tmp_path / "out"
    command = ["sample", "--image", depth, "--model", family, "--prompt", "a lake", "--steps", "3", "--seed", "5"]
    assert main([str(word) for word in [*command, "--out", out]]) == 0
    trace = json.loads((out / "trace.json").read_text())
    assert (trace["steps"], trace["nfe"], trace["adapter_evaluations"], trace["seed"]) == (3, 3, 3, 5)
    assert trace["timesteps"] == sorted(trace["timesteps"], reverse=True)
    assert trace["timesteps"][0] == 999
    assert len(trace["seconds"]["steps"]) == 3
    assert trace["seconds"]["total"] == pytest.approx(sum(trace["seconds"]["steps"]))
    assert trace["peak_memory_bytes"] > 0
    shown = [np.asarray(Image.open(out / f"x0_{i:02d}.png")) for i in range(3)]
    final = Image.open(out / "final.png")
    assert not (out / "x0_03.png").exists()
    np.testing.assert_array_equal(np.asarray(final), shown[-1])
    assert not np.array_equal(shown[0], shown[1])
    assert json.loads(final.info["parameters"])["prompt"] == "a lake"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--steps", "99"], "steps must be between 1 and 20"),
        (["--variant", "sketch"], "here are distilled, undistilled, untouched (--variant)"),
        (["--image", "nowhere.png"], "nowhere.png"),
        (["--sampler", "magic"], "the sampler is one of"),
        (["--frobnicate", "1"], "unknown arguments: --frobnicate 1"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    changed: list[str], words: str, family: Path, depth: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    command = ["sample", "--image", str(depth), "--model", str(family), "--out", str(tmp_path / "out"), *changed]
    assert main(command) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("cdd_core: ")
    assert words in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Sheets, diversity and intervals of a few pictures, and narrow probes; tables are as long as ever."""
    drawn_anew = metrics.bootstrap
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "bootstrap", lambda count, rounds, seed: drawn_anew(count, rounds // 50, seed))
        patch.setattr(probe, "WIDTHS", (8, 8, 16, 16))
        patch.setattr(runner, "DIVERSE_CONDITIONS", 1)
        patch.setattr(command, "SHEET_ROWS", (("undistilled", 2), ("distilled", 1)))
        yield


@pytest.fixture(scope="module")
def judged(few: None, components: Components, family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family at 128 pixels with probes: what ``evaluate`` needs."""
    folder = tmp_path_factory.mktemp("judged")
    shutil.copytree(family, folder, dirs_exist_ok=True)
    large = replace(components, unet=copy.deepcopy(components.unet))
    large.unet.register_to_config(sample_size=32)
    export_base(large, folder / "base", {})
    for number, name in enumerate("AB"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            (folder / "probe" / name).mkdir(parents=True)
            save_file(probe.Probe().half().state_dict(), folder / "probe" / name / "probe.safetensors")
    return folder


def evaluate(family: Path, out: Path, cache: Path, *more: str) -> list[dict]:
    places = ["--model", family, "--probes", family / "probe", "--out", out, "--cache", cache]
    few = ["--n", str(N), "--steps", "1,2"]
    assert main(["evaluate", *few, *map(str, places), *more]) == 0
    return json.loads((out / "results.json").read_text())["rows"]


class Floats(torch.nn.Module):
    """A network of features that takes pictures as FID does, in eight bits."""

    num_features = 3

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.network(pictures / 255)


def drawn_photos(folder: Path) -> Path:
    """Photographs, of which some are held out."""
    photos = folder / "photos"
    photos.mkdir()
    for name in ("a", "b", "c", "d", "e", "f"):
        Image.fromarray(np.tile(RAMP8, (3, 3))).convert("RGB").save(photos / f"{name}.png")
    return photos


def test_evaluate_measures_edits(judged: Path, tmp_path: Path):
    """The asked change and all else apart, and how near the true re-render is."""
    photos, out = drawn_photos(tmp_path), tmp_path / "out"
    (tmp_path / "none").mkdir()
    more = ["--task", "edit", "--variants", "undistilled", "--photos", str(tmp_path / "none"), "--world", "1"]
    elsewhere = evaluate(judged, out, tmp_path / "cache", *more)
    assert "there were no photographs" in (out / "results.md").read_text()
    assert f"n = {N} held-out scenes of world 1, seed 0" in (out / "results.md").read_text()
    more = ["--task", "edit", "--variants", "undistilled", "--photos", str(photos)]
    rows = evaluate(judged, out, tmp_path / "cache", *more)
    assert [row["psnr"] for row in rows] != [row["psnr"] for row in elsewhere], "of other scenes"
    found = [(r["steps"], r["nfe"]) for r in rows]
    assert found == [(1, 3), (1, 1), (2, 6), (2, 2)], "guided by text and picture, and not"
    assert "make it sunset" in (out / "results.md").read_text()
    assert (out / "photos.png").stat().st_size > 0
    for row in rows:
        for name in ("change_accuracy", "preserve_accuracy", "ssim", "probe_lpips"):
            assert 0 <= row[name] <= (16 if name == "probe_lpips" else 1), name
        assert 0 < row["psnr"] < 60
    assert "asked change" in (out / "results.md").read_text()


def test_evaluate_measures_super_resolution(judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Bicubic enlargement stands in the table too; random weights can't beat it, on photographs neither."""
    photos, out = drawn_photos(tmp_path), tmp_path / "out"
    monkeypatch.setattr(photographs, "SQUARES", 8)
    more = ["--task", "upscale", "--variants", "undistilled", "--photos", str(photos)]
    rows = evaluate(judged, out, tmp_path / "cache", *more)
    found = json.loads((out / "results.json").read_text())["photos"]
    assert [line["label"] for line in found["rows"]] == ["bicubic", "autoencoder", "undistilled 2"]
    assert found["rows"][0]["psnr_more_than_bicubic"] == 0
    assert found["rows"][2]["psnr_more_than_bicubic_ci"][1] < 0
    assert "## Held-out photographs" in (out / "results.md").read_text()
    assert (out / "photos.png").stat().st_size > 0
    assert [(r["variant"], r["steps"], r["nfe"]) for r in rows] == [
        ("bicubic", 0, 0),
        ("undistilled", 1, 1),
        ("undistilled", 2, 2),
    ]
    bicubic, *others = rows
    assert bicubic["psnr"] > 15
    assert bicubic["diversity"] == 0
    for row in others:
        assert row["psnr"] < bicubic["psnr"]
        assert row["probe_lpips"] > bicubic["probe_lpips"]
        assert "change_accuracy" not in row


def test_evaluate_measures_fid_and_lpips_on_request(judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows measured before, without all their pictures, are measured again; small networks stand for the downloaded."""
    inception = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    looks = {"inception": Floats(inception), "lpips": lambda a, b: (a - b).abs().mean((1, 2, 3))}
    monkeypatch.setattr(runner, "Imagenet", partial(Imagenet, **looks))
    more = ["--task", "upscale", "--variants", "undistilled", "--photos", str(tmp_path / "none")]
    assert "fid" not in evaluate(judged, tmp_path / "plain", tmp_path / "cache", *more)[0]
    rows = evaluate(judged, tmp_path / "out", tmp_path / "cache", *more, "--imagenet")
    bicubic, *others = rows
    for row in others:
        assert 0 < bicubic["fid"] < row["fid"]
        assert 0 < bicubic["lpips"] < row["lpips"]
    assert "| fid | lpips |" in (tmp_path / "out" / "results.md").read_text()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures ``evaluate`` draws for its rows, call by call."""
    drawn: list[int] = []
    original = runner.draw_row

    def draw_row(
        model: object, how: object, scenes: object, rows: np.ndarray, seeds: list[int], precision: str
    ) -> torch.Tensor:
        drawn.append(len(rows))
        return original(model, how, scenes, rows, seeds, precision)

    monkeypatch.setattr(runner, "draw_row", draw_row)
    return drawn


def test_evaluate_measures_resumes_and_notices_new_weights(judged: Path, tmp_path: Path, drawn: list[int]):
    out, cache = tmp_path / "results", tmp_path / "cache"
    rows = evaluate(judged, out, cache)
    assert [(r["variant"], r["sampler"], r["steps"], r["nfe"]) for r in rows] == [
        ("undistilled", "ddim", 1, 1),
        ("undistilled", "ddim", 2, 2),
        ("distilled", "renoise", 1, 1),
        ("distilled", "ddim", 2, 2),
    ]
    for row in rows:
        assert row["n"] == N
        assert row["excess_ci"][0] <= row["excess_ci"][1]
        assert row["fd"] > 0
        assert 0 <= row["attribute_accuracy"] <= 1
        assert row["diversity"] > 0
    for name in ("results.md", "curves.png", "elsewhere.png", "sheet.png", "gate.json"):
        assert (out / name).stat().st_size > 0, name
    assert drawn
    drawn.clear()
    assert evaluate(judged, out, cache) == rows
    assert drawn == [], "everything was measured already"
    changed = tmp_path / "changed"
    shutil.copytree(judged, changed)
    net = changed / "depth" / "distilled" / "controlnet" / "diffusion_pytorch_model.safetensors"
    save_file({k: 1.5 * v for k, v in load_file(net).items()}, net, metadata={"format": "pt"})
    Card.read(changed / "depth" / "distilled")
    again = evaluate(changed, out, cache)
    assert sum(drawn) == 2 * (N + 8), "the student's two rows, nothing of its teacher"
    assert again[:2] == rows[:2]
    assert all(new["fd"] != old["fd"] for new, old in zip(again[2:], rows[2:], strict=True))


def test_rows_that_another_machine_measured_are_not_drawn_again(judged: Path, tmp_path: Path, drawn: list[int]):
    """Neither to conclude from them: only the two columns of the sheet are pictures."""
    there = tmp_path / "there"
    rows = evaluate(judged, there, tmp_path / "cache")
    told = json.loads((there / "results.json").read_text())
    drawn.clear()
    here = tmp_path / "here"
    assert evaluate(judged, here, tmp_path / "other", "--known", str(there)) == rows
    assert drawn == [N, N]
    again = json.loads((here / "results.json").read_text())
    assert again["elsewhere"] == told["elsewhere"]
    assert (here / "sheet-distilled-1.png").read_bytes() == (there / "sheet-distilled-1.png").read_bytes()
    kept = [{file.name: file.read_bytes() for file in (place / "rows").iterdir()} for place in (there, here)]
    assert kept[0] == kept[1], "a table has all its rows beside it"
    one, other = ((place / "results.md").read_text().split("## The probes' gate")[1] for place in (there, here))
    assert one == other


def test_whether_a_row_is_guided_as_its_card_says_is_not_kept(judged: Path, tmp_path: Path, drawn: list[int]):
    """A card's guidance is chosen by what was measured, which need not be measured again for that."""
    family, out, cache = tmp_path / "family", tmp_path / "out", tmp_path / "cache"
    shutil.copytree(judged, family)
    more = ["--variants", "undistilled", "--guidance", "1,2"]
    for guidance in (1.0, 2.0):
        replace(Card.read(family / "depth" / "undistilled"), guidance=guidance).write(family / "depth" / "undistilled")
        rows = evaluate(family, out, cache, *more)
        assert {row["guidance"] for row in rows if row["own_guidance"]} == {guidance}
        drawn.append(-1)
    assert drawn.index(-1) == len(drawn) - 2, "nothing was drawn for the second table"


def test_rows_are_kept_for_their_key_and_their_world(tmp_path: Path):
    gate = {"A": {"attribute_accuracy": 0.99, "depth_error": 0.04, "fd_real": 0.3, "fd_blur": 2.0}}
    line = {"label": "one", "excess": 0.5, "excess_ci": [0.25, 0.75], "psnr": float("inf")}
    draws = {"A": {"excess": np.array([0.25, 0.75]), "psnr": np.array([1.0, 2.0])}}
    rows = KeptRows(tmp_path / "here", [], gate)
    rows.keep("one", "key", line, draws)
    found, spread = rows.find("one", "key")
    assert found == line
    assert list(spread["A"]) == ["excess"], "rows are compared by nothing else"
    np.testing.assert_array_equal(spread["A"]["excess"], draws["A"]["excess"])
    assert rows.find("one", "other") is None
    assert rows.find("two", "key") is None
    rounded = {"A": gate["A"] | {"fd_real": 0.3 * (1 + 1e-5), "fd_blur": 3.0}}
    assert KeptRows(tmp_path / "there", [tmp_path / "here"], rounded).find("one", "key")
    changed = {"A": gate["A"] | {"fd_real": 0.31}}
    assert KeptRows(tmp_path / "there", [tmp_path / "here"], changed).find("one", "key") is None


def test_a_full_gpu_is_a_sentence(capsys: pytest.CaptureFixture):
    class Full:
        def __init__(self, error: type[RuntimeError]) -> None:
            self.error = error

        def run(self, extra: list[str]) -> None:
            raise self.error("CUDA out of memory. Tried to allocate 20.00 MiB.")

    assert run(Full(torch.OutOfMemoryError), []) == 2
    assert "too little memory" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="Tried"):
        run(Full(RuntimeError), [])


def test_render_writes_what_it_lists(tmp_path: Path):
    assert main(["render", "--n", "2", "--size", "32", "--out", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1]
    for row, (kind, mode) in product(rows, (("image", "RGB"), ("depth", "I;16"), ("edited", "RGB"))):
        with Image.open(tmp_path / f"{row['index']:05d}_{kind}.png") as picture:
            assert (picture.mode, picture.size) == (mode, (32, 32))
    assert main(["render", "--n", "0", "--out", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("distill --preset bset", "the preset is one of paper, best, sd-paper, sd-best, not 'bset'"),
        ("train --stage probe", "the preset is one of A, B, not 'pocket'"),
        ("train --stage vae --device cuda", "torch finds no CUDA device here"),
        ("sample --device cuda", "PyTorch finds no device 'cuda' here"),
        ("fetch --family sd16", "the family is one of"),
        ("take-in --source hub:a/b --model FAMILY --device cpu", "this needs datasets, which isn't here"),
    ],
)
def test_other_mistakes_are_one_sentence_too(
    words: str, told: str, family: Path, depth: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    more = ["--image", str(depth), "--model", str(family)] if words.startswith("sample") else []
    assert main([*words.replace("FAMILY", str(family)).split(), *more]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["vae", "decoder", "depth", "edit", "probe"])
def test_every_stage_of_the_pocket_family_can_begin(stage: str, places: list[str], capsys: pytest.CaptureFixture):
    preset = ["--preset", "A"] if stage == "probe" else []
    assert main(["train", "--stage", stage, *preset, "--dry-run", *places]) == 0, capsys.readouterr().err
    assert "seconds a step" in capsys.readouterr().out


def test_a_probe_is_trained_exported_and_read(places: list[str], tmp_path: Path):
    assert main(["train", "--stage", "probe", "--preset", "A", *places]) == 0
    kept = [word for word in places if not word.startswith("--loop") and word not in ("2", "no")]
    assert main(["export", "--run", f"{places[1]}/probe-A", "--out", str(tmp_path / "A"), *kept]) == 0
    assert probe.load_probe(tmp_path / "A")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a training on sixteen scenes that begins with what is shipped."""
    root = tmp_path_factory.mktemp("training")
    folders = {"runs": root / "runs", "data": root / "data", "photos": root / "none", "shipped": POCKET}
    flags = [word for name, place in folders.items() for word in (f"--{name}", str(place))]
    few = ["--scenes", "16", "--device", "cpu", "--loop.batch", "2", "--loop.steps", "2", "--loop.precision", "no"]
    return [*flags, *few]
