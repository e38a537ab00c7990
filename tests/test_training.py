"""A run resumed is a run never stopped; a student starts as what it is distilled from; every preset runs."""

from __future__ import annotations

import copy
import dataclasses
import json
import multiprocessing
import pickle
import shutil
import socket
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY, PowerCutError, roughen

from cdd_core import trainer, workshop
from cdd_core.checkpoint import read_json, write_json
from cdd_core.config import (
    BASE_PRESETS,
    DEPTH_PRESETS,
    EDIT_PRESETS,
    UPSCALE_PRESETS,
    CddConfig,
    DecoderConfig,
    DenoisingConfig,
    LoopConfig,
    TerraConfig,
    TextConfig,
    VaeConfig,
)
from cdd_core.data.augment import DRAWS, augment_depth
from cdd_core.data.latents import LatentSet, cache_instructions, cache_latents, cache_tokens, encode
from cdd_core.data.photos import Crops
from cdd_core.data.small import cache_shown
from cdd_core.data.store import TerraStore, render_store
from cdd_core.data.terra.render import Terra
from cdd_core.denoiser import Denoiser, Text
from cdd_core.distill.cdd import Batch, Networks, cdd_step, stage_pair
from cdd_core.export import distilled_card
from cdd_core.inference import plan, timesteps
from cdd_core.loading import Model
from cdd_core.models import LORA, Components, build_unet, load_module, load_text_encoder, with_lora
from cdd_core.recipes import CDD_PRESETS, as_objective
from cdd_core.schedule import CLEAN, grid
from cdd_core.shipping import export_run
from cdd_core.stages.denoising import DenoisingStage, draw_examples, seen_condition
from cdd_core.stages.distillation import DistillationStage
from cdd_core.stages.text import TextStage
from cdd_core.stages.vae import DecoderStage, VaeStage
from cdd_core.state import load_state, save_state
from cdd_core.trainer import Draws, Losses, Stage, learning_rate, train
from tests import distributed
from tests.distributed import Line

DENOISING = {
    "base": BASE_PRESETS["pocket"],
    "depth": DEPTH_PRESETS["pocket"],
    "edit": EDIT_PRESETS["pocket"],
    "upscale": UPSCALE_PRESETS["pocket"],
}
# True pairs lead, and a discriminator judges.
PAIRED = dataclasses.replace(
    CDD_PRESETS["best"], ode="data", anchor_weight=0.1, adversarial_weight=0.3, stages=20, huber=0.0
)
RECIPES = {
    **CDD_PRESETS,
    "matching": dataclasses.replace(PAIRED, matching_weight=1.0),
    "matching alone": dataclasses.replace(
        CDD_PRESETS["best"], matching_weight=1.0, consistency_weight=0.0, anchor_weight=0.0, stages=8
    ),
    "best edit": dataclasses.replace(PAIRED, task="edit", matching_weight=1.0),
    "paper edit": dataclasses.replace(CDD_PRESETS["paper"], task="edit", scope="full"),
    "adapter once": dataclasses.replace(CDD_PRESETS["best"], scope="adapter", adapter_once=True, anchor_weight=1.0),
    "paper edit adapter": dataclasses.replace(CDD_PRESETS["paper"], task="edit"),
    "taught edit adapter": dataclasses.replace(
        CDD_PRESETS["best"], task="edit", scope="adapter", start="base", ode="teacher", guidance=3.0, image_guidance=1.5
    ),
    "consistency": as_objective(CDD_PRESETS["best"], "consistency"),
    "own states edit": dataclasses.replace(
        CDD_PRESETS["best"], task="edit", ode="teacher", own_states=0.5, own_anchor=0.1
    ),
    "lora": dataclasses.replace(PAIRED, scope="lora", lora_rank=4),
    "lora edit": dataclasses.replace(PAIRED, task="edit", scope="lora", lora_rank=4),
    "adversarial": dataclasses.replace(PAIRED, adversarial_weight=0.1),
    "adversarial upscale adapter": dataclasses.replace(
        CDD_PRESETS["paper"], task="upscale", adversarial_weight=0.1, ode="data", consistency="x"
    ),
}
# Without weight decay, which would move what no gradient reaches.
LOOP = LoopConfig(
    3, batch=4, learning_rate=1e-3, warmup_steps=1, weight_decay=0.0, precision="no", log_every=1, save_minutes=0.0
)
IN_PEACE = dataclasses.replace(LOOP, save_minutes=60.0)  # saves at its end alone


SCALING = 0.8  # of the tiny autoencoder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TerraStore:
    return render_store(tmp_path_factory.mktemp("terra"), 16, 0, 32, 0, 1)


@pytest.fixture(scope="module")
def data(store: TerraStore, components: Components, tmp_path_factory: pytest.TempPathFactory) -> LatentSet:
    folder = tmp_path_factory.mktemp("latents")
    cache_latents(store, components.vae, folder)
    cache_tokens(store, Terra(0, 32), components.tokenizer, folder)
    return LatentSet.open(folder, store, components.tokenizer, torch.device("cpu"))


@pytest.fixture(scope="module")
def pairs(
    data: LatentSet, store: TerraStore, components: Components, tmp_path_factory: pytest.TempPathFactory
) -> LatentSet:
    folder = tmp_path_factory.mktemp("edited")
    edited = render_store(folder / "terra", 8, 0, 32, 0, 1, edited=True)
    before, after = folder / "before", folder / "after"
    cache_latents(store, components.vae, before)
    cache_latents(edited, components.vae, after)
    cache_instructions(8, Terra(0, 32), components.tokenizer, after)
    return LatentSet.open_pairs(before, after, store, edited, components.tokenizer, torch.device("cpu"), SCALING)


@pytest.fixture(scope="module")
def shown(store: TerraStore, components: Components, tmp_path_factory: pytest.TempPathFactory) -> LatentSet:
    folder = tmp_path_factory.mktemp("shown")
    squares = Crops(np.asarray(store.image[4:10]))
    for part, pictures in (("terra", store.first(8)), ("photos", squares)):
        cache_latents(store if part == "terra" else squares, components.vae, folder / part)
        cache_shown(pictures, components.vae, folder / part, 0)
    folders, device = [folder / "terra", folder / "photos"], torch.device("cpu")
    return LatentSet.open_shown(folders, store, components.tokenizer, device, SCALING)


@pytest.fixture(scope="module")
def sets(data: LatentSet, pairs: LatentSet, shown: LatentSet) -> dict[str, LatentSet]:
    """What each task learns from."""
    return {"": data, "depth": data, "edit": pairs, "upscale": shown}


def tiny(config: DenoisingConfig | CddConfig) -> DenoisingConfig | CddConfig:
    """A preset with its recipe untouched, on the tiny networks for a few steps."""
    return dataclasses.replace(config, net=TINY, loop=LOOP)


def build(name: str, components: Components, data: LatentSet, family: Path, sets: dict | None = None) -> Stage:
    """A stage with its own copy of the networks, the same at every call, and lying in memory as a workshop's do."""
    return assembled(name, components, data, family, sets).to(memory_format=torch.channels_last)


def assembled(name: str, components: Components, data: LatentSet, family: Path, sets: dict | None) -> Stage:
    own = dataclasses.replace(
        components, unet=copy.deepcopy(components.unet), text_encoder=copy.deepcopy(components.text_encoder)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "vae":
            return VaeStage(VaeConfig(LOOP, encoder_channels=8, decoder_channels=8, crop=16), data.store)
        if name == "decoder":
            config = DecoderConfig(LOOP, crop=16, critic_channels=(8, 8))
            squares = Crops(np.asarray(data.store.image[:3]))
            return DecoderStage(config, data.store, copy.deepcopy(components.vae), squares)
        if name == "text":
            return TextStage(TextConfig(LOOP, net=TINY), own.text_encoder, own.tokenizer)
        if name in DENOISING:
            config = tiny(DENOISING[name])
            return DenoisingStage(config, own, (sets or {}).get(config.condition, data))
        config = tiny(RECIPES[name])
        part = "controlnet" if config.task == "depth" else "unet"
        undistilled = torch.nn.ModuleDict({part: load_module(family / config.task / "undistilled" / part)})
        undistilled = undistilled if config.needs_undistilled else None
        return DistillationStage(config, own, undistilled, (sets or {}).get(config.task, data))


STAGES = ("vae", "decoder", "text", *DENOISING, *RECIPES)


class Mortal(Stage):
    """A stage that dies in its n-th forward pass."""

    def __init__(self, stage: Stage, after: int) -> None:
        super().__init__()
        self.inner, self.left, self.student = stage, after, stage.student
        self.draw, self.after_step = stage.draw, stage.after_step
        self.preview, self.export = stage.preview, stage.export
        self.still, self.inert, self.twins = stage.still, stage.inert, stage.twins

    def forward(self, draws: Draws) -> Losses:
        if self.left == 0:
            raise PowerCutError
        self.left -= 1
        return self.inner(draws)

    def state_dict(self, *args, **kwargs):
        return self.inner.state_dict(*args, **kwargs)

    def load_state_dict(self, *args, **kwargs):
        return self.inner.load_state_dict(*args, **kwargs)


def unseen(stage: Stage) -> Stage:
    """The stage, with a blank sheet in place of samples, which take longer than its training here."""
    stage.preview = lambda averaged: torch.zeros(3, 8, 8)
    return stage


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found.update({f"{path.parent.name}/{k}": v for k, v in load_file(path).items()})
    return found


def assert_nothing_else_moved(name: str, stage: Stage, before: dict[str, torch.Tensor]) -> None:
    """Training moves the student and its critic."""
    student = {id(p) for p in stage.student.parameters()}
    for n, p in stage.named_parameters():
        # A critic of pictures scores differences: while its hinges are open, its last bias cancels out.
        if n.startswith("target.") or (name, n) == ("decoder", "critic.4.bias") or n == "discriminator.verdict.bias":
            continue
        if (name, n) == ("adapter once", "student.controlnet.conv_in.weight"):
            continue  # an adapter that never sees the state multiplies zeros by it
        moved = not torch.equal(before[n].to(p.dtype), p)
        wanted = (id(p) in student and p.requires_grad) or n.startswith(("critic.", "discriminator."))
        assert moved == (wanted and not (name == "decoder" and ".encoder." in n)), n


@pytest.mark.parametrize("name", STAGES)
def test_resumed_equals_uninterrupted(name, components, data, family, sets, tmp_path):
    stage = build(name, components, data, family, sets)
    before = {n: p.clone() for n, p in stage.named_parameters()}
    whole = weights(train(stage, IN_PEACE, tmp_path / "whole", cpu=True))
    assert_nothing_else_moved(name, stage, before)
    with pytest.raises(PowerCutError):
        train(Mortal(unseen(build(name, components, data, family, sets)), 2), LOOP, tmp_path / "cut", cpu=True)
    resumed = weights(train(unseen(build(name, components, data, family, sets)), LOOP, tmp_path / "cut", cpu=True))
    assert whole.keys() == resumed.keys()
    assert whole
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


@pytest.mark.parametrize(("name", "left_out"), [("best", True), ("best edit", False), ("edit", True)])
def test_a_student_that_changes_pictures_always_sees_picture_and_words(name, left_out, components, data, family, sets):
    """It isn't guided; who will be guided learns to do without, and so does whoever may be given no prompt."""
    stage = build(name, components, data, family, sets)
    draws = stage.draw(torch.Generator().manual_seed(0), 512)
    assert (bool(draws["dropped"].any()), bool(draws["blind"].any())) == (left_out, left_out)


@pytest.mark.parametrize("name", ["depth", "best", "paper", "own states edit"])
def test_what_is_looked_at_on_the_way_is_not_learnt_from_and_drawn_as_the_export_draws(
    name, components, data, family, sets, monkeypatch
):
    stage, seen, times = build(name, components, data, family, sets), [], []
    kept = range(stage.data.learnt, len(stage.data))
    assert len(kept) == 2
    assert set(stage.draw(torch.Generator().manual_seed(0), 512)["rows"].tolist()) == set(range(stage.data.learnt))
    condition, forward = stage.data.condition, Denoiser.forward
    monkeypatch.setattr(
        stage.data, "condition", lambda rows, **how: seen.extend(rows.tolist()) or condition(rows, **how)
    )
    monkeypatch.setattr(
        Denoiser, "forward", lambda self, z, t, *rest: times.append(int(t[0])) or forward(self, z, t, *rest)
    )
    sheet = stage.preview(stage.student)
    assert seen == list(kept)
    assert sheet.shape == (3, 32, 2 * 32)
    if name == "depth":
        assert times == grid(12, 1000, 1000)
        return
    card = distilled_card(stage.config, {}, 1.0)
    model = Model(components, stage._denoiser(stage.student), card, torch.device("cpu"))
    assert tuple(times) == timesteps(model, plan(model, card.steps))


@pytest.mark.parametrize(("name", "kept"), [("base", False), ("depth", True), ("edit", False)])
def test_the_base_is_held_by_adapters_alone(name, kept, components, data, family, sets):
    """A copy with further channels has nothing more to do with it; another base needn't stop its training."""
    stage = build(name, components, data, family, sets)
    assert ("base" in dict(stage.named_children())) is kept
    assert any(key.startswith("base.") for key in stage.state_dict()) is kept


@pytest.mark.parametrize(("precision", "name"), [("no", "matching"), ("bf16", "lora")])
def test_what_never_moves_is_small_and_not_saved(precision, name, components, data, family, tmp_path):
    """Held once, too, by a student of low rank and its target; a run that began with others is not gone on with."""
    loop = dataclasses.replace(IN_PEACE, precision=precision)
    stage = build(name, components, data, family)
    assert set(stage.still()) == {"base", "text_encoder", "undistilled"}
    train(stage, loop, tmp_path, cpu=True)
    own = [p for network in stage.still().values() for p in network.parameters()] + stage.inert()
    assert {p.dtype for p in own} == {torch.bfloat16 if precision == "bf16" else torch.float32}
    pairs = list(zip(stage.student.parameters(), stage.target.parameters(), strict=True))
    assert all((p.data_ptr() == q.data_ptr()) != p.requires_grad for p, q in pairs)
    assert {p.dtype for pair in pairs for p in pair if pair[0].requires_grad} == {torch.float32}
    saved = load_file(tmp_path / "state.safetensors")
    assert {key.split(".")[0] for key in saved if key.startswith("stage/")} == {
        f"stage/{part}" for part in ("student", "target", *(["critic"] if name == "matching" else []), "discriminator")
    }
    assert all("lora_" in key for key in saved if "unet" in key and name == "lora")
    other = build(name, components, data, family)
    other.base.conv_in.weight.data += 1
    with pytest.raises(ValueError, match="began with other weights of its frozen base"):
        train(other, loop, tmp_path, cpu=True)


@pytest.mark.parametrize("files", [0, 1])
def test_an_export_cut_off_is_made_up_for(files, components, data, family, tmp_path, monkeypatch):
    """The last state is there, the last export is not, or only the first of its files."""
    whole = weights(train(build("best", components, data, family), IN_PEACE, tmp_path / "whole", cpu=True))
    stage, left = build("best", components, data, family), [2 * (LOOP.steps - 1) + files]

    def export(averaged: torch.nn.ModuleDict, folder: Path) -> None:
        for name, module in averaged.items():
            if left[0] == 0:
                raise PowerCutError
            left[0] -= 1
            module.save_pretrained(folder / name)

    monkeypatch.setattr(stage, "export", export)
    with pytest.raises(PowerCutError):
        train(stage, LOOP, tmp_path / "cut", cpu=True)
    before = weights(tmp_path / "cut" / "export")
    assert before.keys() == whole.keys(), "the one before is still whole"
    assert any(not torch.equal(before[key], value) for key, value in whole.items())
    again = train(build("best", components, data, family), LOOP, tmp_path / "cut", cpu=True)
    assert all(torch.equal(value, whole[key]) for key, value in weights(again).items())
    assert weights(again).keys() == whole.keys()


def test_a_run_shorter_than_its_warm_up_exports_what_it_learnt(components, data, family, tmp_path):
    stage = build("best", components, data, family)
    before = {f"{name}/{k}": v.clone() for name, net in stage.student.items() for k, v in net.state_dict().items()}
    found = weights(train(stage, dataclasses.replace(LOOP, warmup_steps=200), tmp_path, cpu=True))
    assert any(not torch.equal(value, before[key]) for key, value in found.items())


def test_what_is_exported_while_a_run_warms_up_is_the_student_itself(components, data, family, tmp_path, monkeypatch):
    """And not the weights that it began with."""
    stage, loop = build("best", components, data, family), dataclasses.replace(LOOP, warmup_steps=200, save_minutes=0)
    exported, original = [], stage.export

    def export(averaged: torch.nn.ModuleDict, folder: Path) -> None:
        pairs = zip(averaged.state_dict().values(), stage.student.state_dict().values(), strict=True)
        exported.append(all(torch.equal(one, other) for one, other in pairs))
        original(averaged, folder)

    monkeypatch.setattr(stage, "export", export)
    train(stage, loop, tmp_path, cpu=True)
    half = LOOP.steps // 2
    assert exported == [True] * (half + 1) + [False] * (LOOP.steps - half - 1), "averaged from its middle"


def test_a_whole_network_is_never_compiled(components, data, family, tmp_path, monkeypatch):
    """Whatever accelerate's configuration says: four parts of it in five wouldn't learn."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network, **_: compiled.append(network) or network)
    train(build("best", components, data, family), dataclasses.replace(LOOP, steps=1), tmp_path, cpu=True)
    assert compiled == []


def test_a_scale_of_half_precision_is_kept(tmp_path):
    net = torch.nn.Linear(2, 2)
    optimizer, scaler = torch.optim.AdamW(net.parameters()), torch.amp.GradScaler("cpu", init_scale=64.0)
    scaler.scale(net(torch.ones(2)).sum()).backward()
    scaler.step(optimizer)
    scaler.update(128.0)
    save_state(tmp_path, 7, {"net": net}, optimizer, scaler)
    other = torch.amp.GradScaler("cpu")
    assert load_state(tmp_path, {"net": net}, optimizer, other) == 7
    assert other.get_scale() == 128.0
    assert load_state(tmp_path, {"net": net}, optimizer) == 7, "a run without one can go on, too"


def test_older_states_which_hold_a_base_beside_its_copy_are_gone_on_with(tmp_path):
    """And another base doesn't stop them, for it has no part in them."""
    net = torch.nn.ModuleDict({"student": torch.nn.Linear(2, 2)})
    old = torch.nn.ModuleDict({"base": torch.nn.Linear(2, 2), "student": torch.nn.Linear(2, 2)})
    optimizers = [torch.optim.AdamW(module["student"].parameters()) for module in (old, net)]
    save_state(tmp_path / "base", 7, {"stage": old}, optimizers[0])
    save_state(tmp_path / "edit", 7, {"stage": old}, optimizers[0], still={"stage/base": "a digest"})
    for name in ("base", "edit"):
        assert load_state(tmp_path / name, {"stage": net}, optimizers[1]) == 7
        assert torch.equal(net["student"].weight, old["student"].weight)
    strange = torch.nn.ModuleDict({"other": torch.nn.Linear(2, 2), **old})
    save_state(tmp_path / "strange", 7, {"stage": strange}, optimizers[0])
    with pytest.raises(RuntimeError, match="other.weight"):
        load_state(tmp_path / "strange", {"stage": net}, optimizers[1])


def test_what_an_optimiser_nests_is_kept_as_it_reads_it(tmp_path):
    """bitsandbytes: moments of 8 bits in a dictionary of their own, which its loader takes flat; steps are numbers."""
    net, moments = torch.nn.Linear(2, 2), torch.arange(4, dtype=torch.uint8)
    given: list[dict] = []
    own = {"step": 5, "__bnb_optimizer_quant_state__": {"state1": moments, "absmax1": torch.ones(1)}}
    optimizer = SimpleNamespace(
        param_groups=[{"params": [net.weight]}],
        state_dict=lambda: {"state": {0: own}, "param_groups": []},
        load_state_dict=lambda state: given.append(state),
    )
    save_state(tmp_path, 7, {"net": net}, optimizer)
    assert load_state(tmp_path, {"net": net}, optimizer) == 7
    (state,) = given[0]["state"].values()
    assert (state["step"], type(state["step"])) == (5, int)
    assert torch.equal(state["state1"], moments)
    assert state["absmax1"].dtype == torch.float32


def test_the_text_encoder_is_exported_as_it_came(components, data, family, tmp_path):
    """In whatever precision the base learnt beside it."""
    train(build("base", components, data, family), dataclasses.replace(LOOP, precision="bf16"), tmp_path, cpu=True)
    given, exported = components.text_encoder.state_dict(), load_text_encoder(tmp_path / "export" / "text_encoder")
    for name, weight in exported.state_dict().items():
        assert torch.equal(weight, given[name]), name


def test_an_exported_base_keeps_what_is_known_of_its_other_parts(components, data, family, tmp_path):
    shutil.copytree(family / "base", tmp_path / "shipped" / "base")
    write_json(
        tmp_path / "shipped" / "base" / "provenance.json", {"commit": "one", "parts": {"vae": {"commit": "old"}}}
    )
    train(build("base", components, data, family), IN_PEACE, tmp_path / "base", cpu=True)
    write_json(tmp_path / "base" / "config.json", {"stage": "base", "commit": "two", "config": {"loop": {"steps": 3}}})
    shop = workshop.Workshop(tmp_path, tmp_path, tmp_path, tmp_path / "shipped", TerraConfig(), torch.device("cpu"))
    export_run(shop, tmp_path / "base", tmp_path / "out")
    told = read_json(tmp_path / "out" / "provenance.json")
    assert (told["commit"], told["parts"]) == ("two", {"vae": {"commit": "old"}})


def test_a_student_goes_on_from_another(components, data, family, tmp_path):
    first = build("adversarial", components, data, family)
    with torch.no_grad():
        for parameter in first.student.parameters():
            parameter.add_(0.01)
    first.export(first.student, tmp_path)
    second = build("adversarial", components, data, family)
    second.go_on_from(tmp_path)
    for part in (second.student, second.target):
        for (name, own), other in zip(part.named_parameters(), first.student.parameters(), strict=True):
            assert torch.equal(own, other), name
    with pytest.raises(ValueError, match="holds no networks"):
        second.go_on_from(tmp_path / "nothing")
    shutil.copytree(tmp_path / "controlnet", tmp_path / "half" / "controlnet")
    with pytest.raises(ValueError, match="is unet and controlnet; .*half holds controlnet"):
        second.go_on_from(tmp_path / "half")
    build_unet(dataclasses.replace(TINY, channels=(16, 16))).save_pretrained(tmp_path / "half" / "unet")
    with pytest.raises(ValueError, match="another shape"):
        second.go_on_from(tmp_path / "half")
    with pytest.raises(ValueError, match="begin anew"):
        build("lora", components, data, family).go_on_from(tmp_path)


@pytest.mark.parametrize("task", ["canny", "softedge"])
def test_terra_has_no_edges(task, components, tmp_path):
    shop = workshop.Workshop(tmp_path, tmp_path, tmp_path, tmp_path, TerraConfig(), torch.device("cpu"))
    with pytest.raises(ValueError, match="learnt from one's own pictures"):
        shop.latents(components, task)


def test_two_processes_distil_as_one(components, data, family, tmp_path):
    """A discriminator too, whose pull is balanced over both processes' examples."""
    stage = build("adversarial", components, data, family)
    stage.preview = distributed.blank
    (tmp_path / "stage.pickle").write_bytes(pickle.dumps(stage))
    distributed.assert_two_are_one(tmp_path, 8, str(tmp_path / "stage.pickle"))


def test_ten_kills_change_nothing_in_a_distillation(components, data, family, tmp_path):
    """Student, target, averages, moments and the place in the data."""
    stage = build("best", components, data, family)
    stage.preview = distributed.blank
    (tmp_path / "stage.pickle").write_bytes(pickle.dumps(stage))
    distributed.assert_kills_change_nothing(tmp_path, 50, 0.05, str(tmp_path / "stage.pickle"))


def in_shards(stage: Stage, loop: LoopConfig, run: Path) -> list[int]:
    """Train with each of two processes holding half of what learns; returns how they ended."""
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(["tests.distributed"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [
        fresh.Process(target=distributed.member, args=(pickle.dumps(stage), loop, str(run), rank, port), daemon=True)
        for rank in (0, 1)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    return [process.exitcode for process in both]


@pytest.mark.parametrize(("name", "cut"), [("adversarial", True), ("lora", False)])
def test_shards_learn_what_whole_networks_do(name, cut, components, data, family, tmp_path):
    """Weights, averages and moments, and what is exported; once from a state that one process had left."""
    loop = dataclasses.replace(IN_PEACE, precision="no")
    train(build(name, components, data, family), loop, tmp_path / "whole", cpu=True)
    if cut:
        mortal = Mortal(build(name, components, data, family), 2)
        with pytest.raises(PowerCutError):
            train(mortal, dataclasses.replace(loop, save_minutes=0.0), tmp_path / "shards", cpu=True)
    assert in_shards(build(name, components, data, family), loop, tmp_path / "shards") == [0, 0]
    states = [load_file(tmp_path / way / "state.safetensors") for way in ("whole", "shards")]
    exports = [weights(tmp_path / way / "export") for way in ("whole", "shards")]
    for wanted, found in (states, exports):
        assert wanted.keys() == found.keys()
        for key, value in wanted.items():
            # Of each tensor as a whole: Adam makes steps of what in single gradients is only rounding.
            apart, length = (found[key] - value).float().norm(), value.float().norm()
            assert apart <= 2e-3 * length + 1e-7, (key, apart, length)


@pytest.mark.parametrize(
    ("switch", "change", "words"),
    [
        ("DEEPSPEED", {}, "DEEPSPEED.*choose FSDP"),
        ("FSDP", {"precision": "fp16"}, "bf16"),
        ("FSDP", {"optimizer": "adamw8bit"}, "adamw8bit doesn't know"),
    ],
)
def test_shards_that_cannot_be_are_refused_in_a_sentence(
    switch, change, words, monkeypatch, components, data, family, tmp_path
):
    monkeypatch.setenv(f"ACCELERATE_USE_{switch}", "true")
    with pytest.raises(ValueError, match=words):
        train(build("best", components, data, family), dataclasses.replace(LOOP, **change), tmp_path, cpu=True)


def test_pictures_reach_every_tracker_as_sheets():
    """TensorBoard wants an array, channels first; wandb would take that for a picture of three columns."""
    told = []

    class Tracker(SimpleNamespace):
        def log_images(self, values, step):
            told.append((self.name, values["samples"][0], step))

    sheet = torch.rand(3, 8, 16)
    stage = SimpleNamespace(preview=lambda _: sheet)
    trackers = [Tracker(name="tensorboard"), Tracker(name="wandb")]
    trainer._log_sheet(SimpleNamespace(is_main_process=True, trackers=trackers, autocast=nullcontext), stage, None, 7)
    (first, array, _), (second, picture, step) = told
    assert (first, array.shape, second, picture.size, step) == ("tensorboard", (3, 8, 16), "wandb", (16, 8), 7)


def test_a_run_is_told_to_trackio(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="no trackio: pip install trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    loop = dataclasses.replace(LOOP, tracker="trackio", steps=2)
    assert train(Line(), loop, tmp_path / "run", cpu=True) == tmp_path / "run" / "export"


def test_a_tracker_that_is_not_here_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.Accelerator, "init_trackers", lambda *_: None)
    with pytest.raises(ValueError, match="the tracker wandb isn't installed: pip install wandb"):
        train(Line(), dataclasses.replace(LOOP, tracker="wandb"), tmp_path, cpu=True)


@pytest.mark.parametrize("name", ["lora", "lora edit"])
def test_low_rank_changes_come_back_as_they_were(name, components, data, family, sets, tmp_path):
    stage = build(name, components, data, family, sets)
    learning = [n for n, p in stage.student["unet"].named_parameters() if p.requires_grad]
    assert learning
    assert all(".lora_" in n for n in learning)
    generator = torch.Generator().manual_seed(0)
    for n in learning:
        value = stage.student["unet"].get_parameter(n)
        value.data += 0.1 * torch.randn(value.shape, generator=generator)
    stage.export(stage.student, tmp_path)
    bearer = stage.undistilled["unet"] if name == "lora edit" else components.unet
    z = torch.randn(2, bearer.config.in_channels, 8, 8, generator=generator)
    text, t = torch.randn(2, 24, TINY.context, generator=generator), torch.tensor([3, 900])
    own, merged, before = (
        n(z, t, text).sample for n in (stage.student["unet"], with_lora(bearer, tmp_path / LORA), bearer)
    )
    torch.testing.assert_close(merged, own, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, own, atol=1e-3)


def test_latents_follow_their_encoder(store, components, tmp_path):
    vae = copy.deepcopy(components.vae)
    cache_latents(store, vae, tmp_path)
    first = np.load(tmp_path / "latents.npy")
    vae.decoder.requires_grad_(False)
    for parameter in vae.decoder.parameters():
        parameter.mul_(2)
    np.save(tmp_path / "latents.npy", first + 1)
    cache_latents(store, vae, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "latents.npy"), first + 1, "the decoder has no part in it")
    vae.encoder.requires_grad_(False)
    for parameter in vae.encoder.parameters():
        parameter.mul_(0.5)
    cache_latents(store, vae, tmp_path)
    assert not np.allclose(np.load(tmp_path / "latents.npy"), first, atol=1e-3)


def test_latents_half_overwritten_are_known_as_that(store, components, tmp_path, monkeypatch):
    cache_latents(store, components.vae, tmp_path)
    whole, other = np.load(tmp_path / "latents.npy"), copy.deepcopy(components.vae)
    next(iter(other.encoder.parameters())).data += 0.01

    def cut(*_: object) -> None:
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr("cdd_core.data.latents.encode", cut)
        with pytest.raises(PowerCutError):
            cache_latents(store, other, tmp_path)
    cache_latents(store, components.vae, tmp_path)
    assert np.array_equal(np.load(tmp_path / "latents.npy"), whole)


def test_latents_follow_their_pictures(store, components, tmp_path):
    """Where the caller says which they are; Terra's own caches are told apart by their folder alone, as ever."""
    first, others = Crops(np.asarray(store.image[:4]), "first"), Crops(np.asarray(store.image[4:10]), "others")
    cache_latents(first, components.vae, tmp_path, first.identity)
    cache_latents(others, components.vae, tmp_path, others.identity)
    found = torch.from_numpy(np.load(tmp_path / "latents.npy")).float()
    expected = encode(components.vae, others.images(np.arange(6)))
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)
    cache_latents(store, components.vae, tmp_path / "terra")
    assert set(json.loads((tmp_path / "terra" / "latents.json").read_text())) == {"encoder", "rows"}


def test_no_more_scenes_are_changed_than_there_are(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(workshop, "render_store", lambda folder, count, *_, **__: asked.append(count))
    shop = workshop.Workshop(tmp_path, tmp_path, tmp_path, tmp_path, TerraConfig(scenes=12), torch.device("cpu"))
    shop.store(edited=True)
    assert asked == [12]


def test_sets_that_do_not_fit_together_are_refused(pairs):
    with pytest.raises(ValueError, match="not of the same number"):
        dataclasses.replace(pairs, given=pairs.given[1:])


def test_learning_rate_warms_up_holds_and_ends_near_zero():
    loop = LoopConfig(steps=100, batch=1, learning_rate=1.0, warmup_steps=10, cooldown=0.2)
    rates = [learning_rate(loop, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[10:80]) == {1.0}
    assert rates[-1] == pytest.approx(0.05)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def example(data: LatentSet, stage: DistillationStage, seed: int = 0) -> tuple[Batch, Networks]:
    draws = stage.draw(torch.Generator().manual_seed(seed), 4)
    rows = draws["rows"]
    text = Text(
        torch.randn(4, 24, TINY.context, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 24, TINY.context)
    )
    condition = data.condition(rows)
    batch = Batch(data.x(rows), draws["eps"], text, condition, draws["time"])
    return batch, Networks(stage._own(stage.student), stage._own(stage.target), None)


@pytest.mark.parametrize("name", list(RECIPES))
def test_no_gradient_reaches_the_target(name, components, data, family, sets):
    stage = build(name, components, data, family, sets)
    stage.target.requires_grad_(True)
    for parameter in stage.critic.parameters():  # as long as it agrees with the teacher, it has nothing to say
        parameter.data *= 1.1
    draws = stage.draw(torch.Generator().manual_seed(0), 4)
    stage(draws)["loss"].backward()
    assert all(p.grad is None for p in stage.target.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in stage.student.parameters())


def test_target_follows_with_gamma(components, data, family):
    stage = build("best", components, data, family)
    gamma = stage.config.target_decay
    before = [p.clone() for p in stage.target.parameters()]
    for p in stage.student.parameters():
        p.data += 1
    stage.after_step()
    for old, target, student in zip(before, stage.target.parameters(), stage.student.parameters(), strict=True):
        torch.testing.assert_close(target, gamma * old + (1 - gamma) * student)


def test_a_fresh_adapter_changes_nothing(components, data, family):
    stage = assembled("paper", components, data, family, None)
    batch, networks = example(data, stage)
    t = torch.full((4,), 500)
    adapted = networks.student(batch.x, t, batch.text, batch.condition)
    alone = components.unet(batch.x, t, batch.text.prompt).sample
    expected = components.schedule.to_prediction(alone, batch.x, t)
    torch.testing.assert_close(adapted.x0, expected.x0, rtol=0, atol=0)


def test_noise_consistency_is_snr_weighted_signal_consistency(components, data, family):
    """docs/maths.md: on the model's own step the two losses differ by SNR(s), in value."""
    stage = build("paper", components, data, family)
    roughen(stage.student)
    batch, networks = example(data, stage)
    config = dataclasses.replace(stage.config, anchor_weight=0.0)
    by_noise = cdd_step(networks, batch, config).consistency
    _, s = stage_pair(batch.time, config, stage.schedule)
    assert int(s[0]) > 0, "a lucky draw hit the last stage; choose another seed"
    by_signal = cdd_step(networks, batch, dataclasses.replace(config, consistency="x")).consistency
    # One timestep for the batch, so that the SNR is one factor.
    torch.testing.assert_close(by_noise, (stage.schedule.snr(s[:1]).float() * by_signal)[0], rtol=2e-3, atol=0)


@pytest.mark.parametrize("stages", [20, 30, 50, 1000])
def test_stage_pairs_are_neighbours_on_the_grid(stages, components):
    config = dataclasses.replace(CDD_PRESETS["best"], stages=stages, consistency="x")
    t, s = stage_pair(torch.linspace(0, 0.9999, 3 * stages), config, components.schedule)
    assert set(t.tolist()) == set(grid(stages, stages, 1000))
    assert all(abs(width - 1000 / stages) < 1 for width in (t - s).tolist())
    assert int(t.max()) == 999
    assert int(s.min()) == CLEAN


def test_shared_time_uses_one_timestep(components, data, family):
    draws = build("paper", components, data, family).draw(torch.Generator().manual_seed(0), 8)
    assert len(set(draws["time"].tolist())) == 1


def test_with_true_pairs_the_last_stage_is_denoising(components, data, family):
    """z_s is clean there, so the consistency target is the data itself."""
    stage = build("best", components, data, family)
    batch, networks = example(data, stage)
    batch = dataclasses.replace(batch, time=torch.zeros(4))
    config = dataclasses.replace(stage.config, ode="data", consistency="x", huber=0.0, anchor_weight=0.0)
    result = cdd_step(networks, batch, config)
    torch.testing.assert_close(result.consistency, result.anchor)


def test_augmented_depth_is_never_inverted():
    ramp = torch.linspace(0, 1, 64).expand(200, 1, 64, 64)
    draws = torch.rand(200, DRAWS, generator=torch.Generator().manual_seed(0))
    seen = augment_depth(ramp, draws)
    assert torch.all(seen[..., 8:].diff(dim=3) >= -1e-5)
    assert torch.all(seen[..., -1] > seen[..., 0] + 0.3)
    assert 0.2 < (seen == ramp).flatten(1).all(1).float().mean() < 0.5


def test_every_change_is_there_with_its_way_back(pairs, data):
    """Row i + N asks to undo what row i asks for, and takes the other picture."""
    n = len(pairs) // 2
    assert len(pairs.tokens) == len(pairs.given) == 2 * n
    torch.testing.assert_close(pairs.given[:n], data.latents[:n], rtol=0, atol=0)
    torch.testing.assert_close(pairs.given[:n], pairs.latents[n:], rtol=0, atol=0)
    torch.testing.assert_close(pairs.given[n:], pairs.latents[:n], rtol=0, atol=0)
    assert not torch.equal(pairs.tokens[:n], pairs.tokens[n:])


def test_small_pictures_and_clean_ones_belong_together(shown, store, components):
    """Eight scenes and six squares; a model that copied what it is shown would be off by the degradation alone."""
    assert len(shown) == len(shown.given) == 14
    clean = encode(components.vae, store.images(np.arange(10)))
    expected = torch.cat([clean[:8], clean[4:10]])
    torch.testing.assert_close(shown.latents.float(), expected, rtol=0, atol=2e-2)
    own = (shown.given.float() - expected).square().mean((1, 2, 3))
    other = (shown.given.float().roll(1, 0) - expected).square().mean((1, 2, 3))
    assert own.mean() < other.mean()
    assert torch.equal(shown.prompts(torch.tensor([3]), torch.tensor([0]), torch.tensor([False]))[0], shown.empty)


def test_prompt_and_picture_are_left_out_alone_and_together(pairs):
    draws = draw_examples(pairs, torch.Generator().manual_seed(0), 20_000, 0.1)
    dropped, blind = draws["dropped"], draws["blind"]
    shares = [(dropped & ~blind), (dropped & blind), (~dropped & blind)]
    for share in shares:
        assert share.float().mean().item() == pytest.approx(0.05, abs=0.006)
    few = {name: value[:8] for name, value in draws.items()}
    few["blind"] = torch.arange(8) % 2 == 0
    seen = seen_condition(pairs, few)
    assert torch.all(seen[::2] == 0)
    assert torch.equal(seen[1::2], pairs.given[few["rows"][1::2]].float() / SCALING)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scope": "adapter"}, "an adapter for edit can't begin as the undistilled model"),
        ({"guidance": 2.0}, "guidance is baked in through the teacher"),
        ({"image_guidance": 1.5}, "guidance is baked in through the teacher"),
        ({"own_states": 0.5, "adversarial_weight": 0.0}, "own states need somebody who judges them"),
        ({"ode": "teacher"}, "needs the undistilled model; train it first"),
    ],
)
def test_recipes_that_cannot_be_are_refused(change, words, components, pairs):
    config = dataclasses.replace(tiny(CDD_PRESETS["best"]), task="edit", **{"ode": "data", **change})
    with pytest.raises(ValueError, match=words):
        DistillationStage(config, components, None, pairs)


@pytest.mark.parametrize("which", ["pairs", "shown"])
def test_pictures_and_their_latents_are_the_same_ones(which, request, components):
    data = request.getfixturevalue(which)
    rows = torch.tensor([len(data) - 1, 0, 5, 9])
    pictures = data.condition(rows, pixels=True)
    assert pictures.min() >= -0.2
    assert pictures.max() <= 1.2, "bicubic enlargement may overshoot"
    expected = encode(components.vae, pictures * 2 - 1) / components.vae.config.scaling_factor
    torch.testing.assert_close(data.condition(rows), expected, rtol=0, atol=3e-2)
