"""Weights that are not in diffusers' layout become a folder that is; what can't be fetched is a sentence."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from sd_shaped import family, write_repositories

import cdd_core.repositories as repositories
from cdd_core.families import fetch
from cdd_core.repositories import Folder, Hub, convert_single_file

INSIDE = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_cond_embedding.conv_out": "input_hint_block.14",
    "controlnet_mid_block": "middle_block_out.0",
}


def original_name(key: str, layers: int) -> str:
    """What the original implementation calls a weight of diffusers' ControlNet."""
    name, _, kind = key.rpartition(".")
    if name in OUTSIDE:
        return f"{OUTSIDE[name]}.{kind}"
    patterns = {
        r"controlnet_cond_embedding\.blocks\.(\d+)": lambda i: f"input_hint_block.{2 * i + 2}",
        r"controlnet_down_blocks\.(\d+)": lambda i: f"zero_convs.{i}.0",
        r"down_blocks\.(\d+)\.resnets\.(\d+)": lambda b, k: f"input_blocks.{1 + b * (layers + 1) + k}.0",
        r"down_blocks\.(\d+)\.attentions\.(\d+)": lambda b, k: f"input_blocks.{1 + b * (layers + 1) + k}.1",
        r"down_blocks\.(\d+)\.downsamplers\.(0)\.conv": lambda b, _: f"input_blocks.{(b + 1) * (layers + 1)}.0.op",
        r"mid_block\.resnets\.(\d)": lambda i: f"middle_block.{2 * i}",
        r"mid_block\.attentions\.(0)": lambda _: "middle_block.1",
    }
    for pattern, place in patterns.items():
        found = re.match(pattern, key)
        if found:
            rest = key[found.end() + 1 :]
            first, _, more = rest.partition(".")
            rest = f"{INSIDE[first]}.{more}" if "resnets" in key else rest
            return f"{place(*map(int, found.groups()))}.{rest}"
    raise KeyError(key)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    write_repositories(root, "epsilon")
    return root


@pytest.fixture(scope="module")
def place(hub: Path) -> str:
    """Where the family's depth ControlNet lies."""
    return next(model.parts["controlnet"] for model in family("epsilon").models if model.task == "depth")


def test_a_single_file_in_the_authors_layout_is_the_same_network(hub: Path, place: str, tmp_path: Path):
    original = ControlNetModel.from_pretrained(hub / place, variant="fp16")
    layers = original.config.layers_per_block
    named = {f"control_model.{original_name(k, layers)}": v.half() for k, v in original.state_dict().items()}
    assert len(named) == len(original.state_dict())
    (hub / "authors" / "files").mkdir(parents=True)
    save_file(named, hub / "authors" / "files" / "tile.safetensors")
    row = family("epsilon")
    models = [m for m in row.models if m.variant == "undistilled" and m.task == "depth"]
    single = {"controlnet": f"authors/files/tile.safetensors as {place}"}
    row = replace(row, models=tuple(replace(m, parts=single) for m in models))
    fetch(row, tmp_path / "family", Folder(hub))
    found = ControlNetModel.from_pretrained(tmp_path / "family" / "depth" / "undistilled" / "controlnet")
    assert found.config.layers_per_block == layers
    for key, value in original.state_dict().items():
        assert torch.equal(found.state_dict()[key], value.half().to(found.dtype)), key
    (file,) = (tmp_path / "family" / "depth" / "undistilled" / "controlnet").glob("*.safetensors")
    assert {value.dtype for value in load_file(file).values()} == {torch.float16}


def test_a_hub_out_of_reach_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    """Whatever client the Hub's library speaks by: here by a port that nobody listens to."""
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between its attempts
    monkeypatch.setattr(repositories, "HfApi", partial(HfApi, endpoint="http://127.0.0.1:9"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(FileNotFoundError, match="can't be fetched from the Hugging Face Hub") as told:
        Hub().files("maker/model")
    assert isinstance(told.value.__cause__, repositories.HTTPError), "it was tried"


def test_what_the_hub_has_cached_lies_on_disk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cached = tmp_path / "cached"
    cached.write_bytes(b"weights")
    monkeypatch.setattr(repositories, "hf_hub_download", lambda *_: str(cached))
    Hub().get("maker/model", "model.safetensors", tmp_path / "here")
    assert (tmp_path / "here").samefile(cached)
    monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    Hub().get("maker/model", "model.safetensors", tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == b"weights"
    assert not (tmp_path / "there").samefile(cached)


def test_a_file_of_something_else_is_a_sentence(hub: Path, place: str, tmp_path: Path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    config = hub / place / "config.json"
    assert json.loads(config.read_text())["_class_name"] == "ControlNetModel"
    with pytest.raises(ValueError, match="holds no ControlNet of the architecture"):
        convert_single_file(tmp_path / "other.safetensors", config, tmp_path / "out")


def test_a_file_that_is_nowhere_is_a_sentence(hub: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no file nobody/nothing/weights"):
        Folder(hub).get("nobody/nothing", "weights", tmp_path / "weights")
