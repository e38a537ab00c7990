"""Weights from Flax, model cards, and the files of a Space."""

from __future__ import annotations

import ast
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import gradio as gr
import httpx
import msgpack
import pytest
import torch
import yaml
from diffusers import ControlNetModel
from pictures import PHOTO, RAMP, encoded
from PIL import Image
from sd_shaped import unet
from torch import nn

from app.engine import Engine
from app.engine_zero import on_zero_gpu, seconds_of, seconds_of_grid
from app.schema import CompareRequest, EngineError, GridRequest, RunReport
from app.settings import Settings
from cdd_core import publish
from cdd_core.__main__ import main
from cdd_core.cards import ONCE, Card
from cdd_core.config import CddConfig, LoopConfig
from cdd_core.export import distilled_card, export_adapter
from cdd_core.families import fetch_distilled
from cdd_core.images import to_picture
from cdd_core.inference import as_condition, plan, sample_latents
from cdd_core.loading import load
from cdd_core.models import LORA, build_controlnet, load_components, load_module, low_rank, save_lora
from cdd_core.publish import Told, model_card, write_model, write_space
from cdd_core.repositories import Folder
from cdd_core.schedule import grid

ROOT = Path(__file__).parents[1]


def as_flax(net: nn.Module, kind: str) -> bytes:
    """Weights as ``flax.serialization.msgpack_serialize`` writes them: nested dictionaries, kernels turned round."""
    tree: dict = {}
    modules = dict(net.named_modules())
    for name, value in net.state_dict().items():
        home, _, leaf = name.rpartition(".")
        # torch numbers lists with dots, Flax with underscores: down_blocks.0 and down_blocks_0
        path: list[str] = []
        for part in home.split("."):
            if part.isdigit():
                path[-1] += f"_{part}"
            else:
                path.append(part)
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        if leaf == "weight":
            norm = isinstance(modules[home], nn.GroupNorm | nn.LayerNorm)
            leaf = "scale" if norm else "kernel"
            value = value.permute(2, 3, 1, 0) if value.ndim == 4 else value.T if value.ndim == 2 else value
        value = value.contiguous()
        content = value.to(torch.bfloat16).view(torch.int16).numpy() if kind == "bfloat16" else value.numpy()
        node[leaf] = msgpack.ExtType(1, msgpack.packb((tuple(value.shape), kind, content.tobytes())))
    return msgpack.packb(tree)


@pytest.mark.parametrize(("kind", "close"), [("float32", 0.0), ("bfloat16", 0.02)])
def test_flax_controlnets_convert(kind: str, close: float, tmp_path: Path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_controlnet(unet(), (4, 8, 8, 8))
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
    net.save_pretrained(tmp_path / "torch")
    (tmp_path / "model.msgpack").write_bytes(as_flax(net, kind))
    command = ["convert", "--weights", str(tmp_path / "model.msgpack")]
    assert main([*command, "--config", str(tmp_path / "torch" / "config.json"), "--out", str(tmp_path / "out")]) == 0
    back = ControlNetModel.from_pretrained(tmp_path / "out", use_safetensors=True).state_dict()
    assert back.keys() == net.state_dict().keys()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(back[name], value, rtol=close, atol=close)


def test_other_files_are_no_flax_weights(tmp_path: Path, capsys: pytest.CaptureFixture):
    net = build_controlnet(unet(), (4, 8, 8, 8))
    net.save_pretrained(tmp_path / "torch")
    command = ["convert", "--config", str(tmp_path / "torch" / "config.json"), "--out", str(tmp_path / "out")]
    for content, words in (
        (b"\xc1 no msgpack", "holds no Flax weights"),
        (msgpack.packb({}), "belongs to another network"),
        (as_flax(nn.ModuleDict({"extra": nn.Linear(2, 2), **dict(net.named_children())}), "float32"), "beside"),
    ):
        (tmp_path / "model.msgpack").write_bytes(content)
        assert main([*command, "--weights", str(tmp_path / "model.msgpack")]) == 2
        assert words in capsys.readouterr().err
    assert main([*command, "--weights", str(tmp_path / "nowhere")]) == 2


def test_a_model_card_says_what_one_needs_to_know(family: Path):
    rows = ({"variant": "distilled", "steps": 4, "nfe": 4, "excess": 0.12345, "depth_error": 0.03, "n": 2000},)
    told = Told("mit", "Our own holiday pictures.", "someone/base", rows)
    text = model_card(family / "depth" / "distilled", "someone/cdd-depth", told)
    _, front, body = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert (facts["license"], facts["base_model"], facts["library_name"]) == ("mit", "someone/base", "diffusers")
    for heading in ("Use", "Training data", "Figures", "Limits", "Responsible use", "Recipe"):
        assert f"\n## {heading}\n" in body
    assert "holiday pictures" in body
    assert "| distilled | 4 | 4 | 0.1235 | 0.03 | 2000 |" in body
    ast.parse(body.split("```python\n")[1].split("```")[0])
    assert "LCMScheduler" in body
    assert "Steps: 1 to 8, on a grid of" in body


@pytest.fixture(params=["adapter", "full", "lora", "concat", "concat lora", "concat again", "ddim", "sixteen"])
def shared(request: pytest.FixtureRequest, family: Path, tmp_path: Path) -> Path:
    """Distilled weights of every kind, as a folder of a family."""
    kind, components = request.param, load_components(family / "base")
    task, home = ("edit" if "concat" in kind else "depth"), tmp_path / "family"
    scope = "lora" if "lora" in kind else "full"
    config = CddConfig(LoopConfig(1, 1, 1e-4), task=task, scope=scope, stages=20)
    if kind == "ddim":
        config = replace(config, stages=50, samplers=((0, "ddim"),))
    if kind == "concat again":
        config = replace(config, renoise_from=0.2)
    if kind == "sixteen":  # no divisor of 1000
        config = replace(config, stages=16)
    shutil.copytree(family / task / "undistilled", home / task / "undistilled")
    (home / "base").symlink_to(family / "base")
    own = home / task / "undistilled" / ("unet" if task == "edit" else "controlnet")
    parts, lora = {own.name: load_module(own)}, None
    if kind == "full":
        parts["unet"] = components.unet
    if scope == "lora":
        unet, lora = low_rank(parts.pop("unet", components.unet), 4), tmp_path / LORA
        for name, value in unet.named_parameters():
            if "lora_B" in name:
                value.data = 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        save_lora(unet, lora)
    card = distilled_card(config, {}, 1.0, "concat" if task == "edit" else "controlnet")
    export_adapter(parts, lora, card, home / task / "distilled")
    return home / task / "distilled"


def test_the_lines_of_a_model_card_draw_what_we_draw(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All parts on the card's own grid: the last step's prediction is ours, started from the same noise."""
    monkeypatch.chdir(tmp_path)
    for name in ("depth", "photo"):
        PHOTO.resize((32, 32)).save(tmp_path / f"{name}.png")
    model = load(shared.parents[1], shared.parent.name)
    write_model(shared, tmp_path / "out", "me/cdd", Told("mit", "", str(shared.parents[1] / "base")))
    text = (tmp_path / "out" / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0].replace('"me/cdd"', repr(str(tmp_path / "out")))
    setup, call = code.split("image = pipe(")
    scope: dict = {}
    exec(setup, scope)
    asked = {"generator": torch.Generator().manual_seed(5), "output_type": "latent"}
    picture = eval(f"pipe({call.removesuffix(chr(10)).removesuffix(').images[0]')}, **asked)", scope | {"asked": asked})
    times = scope["pipe"].scheduler.timesteps.tolist()
    steps = len(times)
    assert times == grid(steps, model.card.stages, 1000, model.card.renoise_from)
    pixels = to_picture(PHOTO.resize((32, 32)), 32)
    prompt = call.split('"')[1]
    mine = list(sample_latents(model, as_condition(model, pixels), [prompt], [5], plan(model, steps)))[-1]
    torch.testing.assert_close(picture.images, mine.x0, rtol=0, atol=5e-3)


def test_shared_weights_come_back_with_their_card(shared: Path, tmp_path: Path):
    hub, home = tmp_path / "hub", tmp_path / "other"
    write_model(shared, hub / "me" / "cdd", "me/cdd", Told("mit", "", "someone/base"))
    (home / "base").parent.mkdir()
    (home / "base").symlink_to(shared.parents[1] / "base")
    for _ in range(2):  # fetched again, they are there already
        fetch_distilled("me/cdd", home, Folder(hub))
    before, after = (load(place, shared.parent.name) for place in (shared.parents[1], home))
    assert (after.card.stages, after.card.samplers) == (before.card.stages, before.card.samplers)
    for own, other in zip(before.denoiser.parameters(), after.denoiser.parameters(), strict=True):
        assert torch.equal(own, other)
    shutil.copytree(hub / "me", hub / "you")
    with pytest.raises(ValueError, match="holds other distilled weights"):
        fetch_distilled("you/cdd", home, Folder(hub))
    (hub / "you" / "cdd" / "cdd.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no distilled weights"):
        fetch_distilled("you/cdd", home, Folder(hub))


def test_an_adapter_that_runs_once_is_not_for_stock_pipelines(family: Path, tmp_path: Path):
    card = replace(Card.read(family / "depth" / "distilled"), adapter=ONCE)
    card.write(tmp_path)
    text = model_card(tmp_path, "me/cdd", Told("mit", "", "someone/base"))
    assert "which stock pipelines can't do" in text
    assert "```python" not in text


def test_pushing_can_be_tried_without_pushing(family: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = str(family / "depth" / "distilled")
    push = [
        "push",
        "--kind",
        "model",
        "--repository",
        "me/cdd",
        "--folder",
        folder,
        "--base",
        "someone/base",
        "--dry-run",
        "--out",
        str(tmp_path),
    ]
    assert main(push) == 0
    assert "would push" in capsys.readouterr().out
    assert (tmp_path / "me--cdd" / "README.md").is_file()
    assert (tmp_path / "me--cdd" / "controlnet" / "config.json").is_file()
    assert main([*push[:-1], str(tmp_path), "--folder", str(tmp_path / "nowhere")]) == 2


@pytest.mark.parametrize(("kind", "private"), [("model", True), ("space", False)])
def test_pushing_makes_the_repository_and_uploads_the_folder(
    family: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    kind: str,
    private: bool,
):
    """To a Hub that notes what it is told; the real one isn't asked."""
    told: list[tuple[str, dict]] = []

    class Hub:
        def create_repo(self, repository: str, **how: object) -> str:
            told.append((repository, how))
            return f"https://hub/{repository}"

        def upload_folder(self, *, folder_path: Path, repo_id: str, **how: object) -> None:
            told.append((repo_id, how | {"files": {p.name for p in Path(folder_path).iterdir()}}))

    monkeypatch.setattr(publish, "HfApi", Hub)
    folder = ROOT if kind == "space" else family / "depth" / "distilled"
    push = ["push", "--kind", kind, "--repository", "me/cdd", "--folder", str(folder), "--out", str(tmp_path)]
    if kind == "model":
        assert main(push) == 2
        assert "which base these weights belong to: --base" in capsys.readouterr().err
        push += ["--base", "someone/base"]
    assert main([*push, "--private" if private else "--no-private"]) == 0
    assert "https://hub/me/cdd" in capsys.readouterr().out
    (made, how), (uploaded, what) = told
    assert made == uploaded == "me/cdd"
    assert (how["repo_type"], how["private"], how["exist_ok"]) == (kind, private, True)
    assert how.get("space_sdk") == ("gradio" if kind == "space" else None)
    assert what["repo_type"] == kind
    assert "*.pyc" in what["ignore_patterns"]
    assert {"README.md", "app.py" if kind == "space" else "cdd.json"} <= what["files"]


def test_pushing_without_a_token_is_one_sentence(family: Path, tmp_path: Path, monkeypatch, capsys):
    def refuses(self: object, *_: object, **__: object) -> None:
        raise OSError("no token")

    monkeypatch.setattr(publish.HfApi, "create_repo", refuses)
    push = ["push", "--kind", "model", "--repository", "me/cdd", "--folder", str(family / "depth" / "distilled")]
    assert main([*push, "--base", "a/b", "--out", str(tmp_path)]) == 2
    assert "log in with: hf auth login" in capsys.readouterr().err


def test_the_files_of_a_space_start_without_a_gpu(family: Path, tmp_path: Path):
    """As Spaces run them: python app.py, with SPACE_ID and without a GPU."""
    out = tmp_path / "space"
    write_space(ROOT, out)
    for path in out.rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 12))
    front = yaml.safe_load((out / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (front["sdk"], front["app_file"], front["python_version"]) == ("gradio", "app.py", "3.12")
    assert not list(out.rglob("*.bin"))
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["cards.yaml", "pocket"]
    links = re.findall(r"\]\(([\w/.-]+)\)", (out / "README.md").read_text(encoding="utf-8"))
    assert not [link for link in links if not (out / link).exists()]
    assert max(path.stat().st_size for path in out.rglob("*") if path.is_file()) < 10 * 2**20
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environ = os.environ | {
        "SPACE_ID": "someone/cdd",
        "CDD_PORT": port,
        "CDD_CHECKPOINTS": str(family.parent),
        "CDD_FAMILY": family.name,
        "GRADIO_TEMP_DIR": str(tmp_path / "files"),
    }
    server = subprocess.Popen([sys.executable, "app.py"], cwd=out, env=environ)
    try:
        deadline, ready = time.monotonic() + 120, False
        while not ready:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
            try:
                ready = httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).json().get("ready", False)
            except (httpx.HTTPError, ValueError):
                ready = False
    finally:
        server.terminate()
        server.wait(30)


def test_incomplete_checkouts_make_no_space(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"lacks app\.py"):
        write_space(tmp_path, tmp_path / "space")


def test_zero_gpu_is_asked_for_by_the_length_of_the_run(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def gpu(duration: object) -> object:
        """As the library: of what is raised in its process only the name comes back."""

        def decorate(function: object) -> object:
            def run(*given: object) -> object:
                asked.append(duration(*given) if callable(duration) else duration)
                try:
                    yield from map(pickle.loads, map(pickle.dumps, function(*given)))
                except Exception as error:
                    raise gr.Error(f"'{type(error).__name__}'") from None

            return run

        return decorate

    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=gpu))
    engine = on_zero_gpu(Engine(Settings(checkpoints=family.parent, family=family.name, device="cpu")))
    assert engine.ready, "models are there before the first run"
    (tmp_path / "map.png").write_bytes(encoded(Image.fromarray(RAMP)))
    *_, report = engine.compare(CompareRequest(tmp_path / "map.png", "", 0, 1, 2))
    assert isinstance(report, RunReport)
    assert asked == [seconds_of(CompareRequest("x", distilled_steps=1, undistilled_steps=2))]
    few, many = (seconds_of(CompareRequest("x", undistilled_steps=steps)) for steps in (4, 50))
    assert few < many <= 120
    assert seconds_of(CompareRequest("x", lanes=["distilled"])) < few, "what is not drawn costs nothing"
    wanted = GridRequest(CompareRequest(tmp_path / "map.png"), "seeds", (1, 2))
    *_, cell = engine.grid(wanted)
    assert (cell.done, asked[-1]) == (8, seconds_of_grid(wanted))
    asked.clear()
    plain, lent = (engine.look("depth", tmp_path / "map.png", False, 0.0, estimate) for estimate in (False, True))
    assert plain.picture.tobytes() == lent.picture.tobytes()
    assert asked == [5], "only an estimate asks for the device"
    Image.new("L", (64, 64)).save(tmp_path / "flat.png")
    with pytest.raises(EngineError, match="one flat grey"):
        list(engine.compare(CompareRequest(tmp_path / "flat.png")))
