"""Public models through our code path: fetched, loaded, drawn with, and compared with stock pipelines."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    LCMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from pictures import RAMP8
from PIL import Image
from safetensors.torch import load_file, save_file
from sd_shaped import family, write_repositories
from torch import Tensor

from cdd_core.__main__ import main
from cdd_core.config import TerraConfig
from cdd_core.data.latents import decode
from cdd_core.denoiser import Guidance
from cdd_core.families import fetch, fetch_distilled, missing, read_families, remedy
from cdd_core.inference import Plan, as_condition, plan, sample, sample_latents
from cdd_core.loading import Model, load
from cdd_core.models import load_module, with_lora
from cdd_core.repositories import Folder
from cdd_core.schedule import grid
from cdd_core.workshop import Workshop

ROOT = Path(__file__).parents[1]
PROMPTS, SEEDS = ["a lake", "night"], [5, 6]
CLOSE = {"rtol": 0, "atol": 2e-4}


pytestmark = pytest.mark.usefixtures("quiet_diffusers")


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def fetched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD 1.5 leaves out what it predicts; SD 2.1 says it."""
    root = tmp_path_factory.mktemp("public")
    write_repositories(root / "hub", None if request.param == "epsilon" else request.param)
    fetch(family(request.param), root / "family", Folder(root / "hub"))
    return root / "family"


def conditions(model: Model) -> Tensor:
    noise = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    return torch.nn.functional.interpolate(noise, size=model.size, mode="bilinear").expand(-1, 3, -1, -1)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def stock(folder: Path, variant: str) -> StableDiffusionControlNetPipeline:
    net = ControlNetModel.from_pretrained(folder / "depth" / variant / "controlnet", torch_dtype=torch.float32)
    pipe = StableDiffusionControlNetPipeline.from_pretrained(folder / "base", controlnet=net, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_controlnet_is_the_stock_pipeline(fetched: Path, guidance: float):
    model, pipe = load(fetched, "depth", "undistilled"), stock(fetched, "undistilled")
    config = {**pipe.scheduler.config, "timestep_spacing": "trailing", "set_alpha_to_one": True, "steps_offset": 0}
    pipe.scheduler = DDIMScheduler.from_config(config, clip_sample=False)
    given = conditions(model)
    results = [
        pipe(
            PROMPTS, given, num_inference_steps=5, guidance_scale=guidance, generator=generators(), output_type=kind
        ).images
        for kind in ("latent", "pt")
    ]
    last = list(sample_latents(model, given, PROMPTS, SEEDS, Plan(5, "ddim", Guidance(guidance))))[-1]
    torch.testing.assert_close(last.x0, results[0], **CLOSE)
    torch.testing.assert_close(decode(model.components.vae, last.x0), results[1].float(), **CLOSE)


def test_the_public_rival_is_lcm_lora(fetched: Path):
    model, pipe = load(fetched, "depth", "lcm"), stock(fetched, "lcm")
    pipe.load_lora_weights(fetched / "depth" / "lcm" / "lora")
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    given, times = conditions(model), grid(4, 50, 1000)
    expected = pipe(
        PROMPTS, given, timesteps=times, guidance_scale=1.0, generator=generators(), output_type="latent"
    ).images
    mine = list(sample_latents(model, given, PROMPTS, SEEDS, plan(model, 4)))[-1].x0
    torch.testing.assert_close(mine, expected, **CLOSE)
    plain = load(fetched, "depth", "undistilled")
    other = list(sample_latents(plain, given, PROMPTS, SEEDS, Plan(4, "renoise", Guidance())))[-1].x0
    assert (other - mine).abs().max() > 1e-2, "the low-rank changes count"


def test_low_rank_changes_are_read_in_kohyas_layout(fetched: Path, tmp_path: Path):
    """As LCM-LoRA lies on the Hub: names run together, and each change is scaled by an alpha of its own."""
    own = load_file(fetched / "depth" / "lcm" / "lora" / "pytorch_lora_weights.safetensors")
    theirs, halved = {}, {}
    for name, value in own.items():
        at, kind = name.removeprefix("unet.").removesuffix(".weight").rsplit(".", 1)
        up = kind == "lora_B"
        key = f"lora_unet_{at.replace('.', '_')}"
        theirs[f"{key}.lora_{'up' if up else 'down'}.weight"] = value
        theirs[f"{key}.alpha"] = torch.tensor(value.shape[1] / 2 if up else value.shape[0] / 2)
        halved[name] = value / 2 if up else value
    for folder, state in (("kohya", theirs), ("diffusers", halved)):
        (tmp_path / folder).mkdir()
        save_file(state, tmp_path / folder / "pytorch_lora_weights.safetensors")
    plain = load_module(fetched / "base" / "unet")
    one, other = (dict(with_lora(plain, tmp_path / folder).named_parameters()) for folder in ("kohya", "diffusers"))
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=name)
    changed = [name for name, before in plain.named_parameters() if not torch.equal(before, one[name])]
    assert len(changed) == len(own) / 2


def test_editing_is_the_stock_pipeline(fetched: Path):
    """Latents of the picture go in unscaled, z_t scaled: 0.18215 shows which is which."""
    model = load(fetched, "edit", "undistilled")
    unet = UNet2DConditionModel.from_pretrained(fetched / "edit" / "undistilled" / "unet", torch_dtype=torch.float32)
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        fetched / "base", unet=unet, torch_dtype=torch.float32
    )
    config = {**pipe.scheduler.config, "timestep_spacing": "trailing", "set_alpha_to_one": True, "steps_offset": 0}
    pipe.scheduler = DDIMScheduler.from_config(config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    photos = torch.rand(2, 3, model.size, model.size, generator=torch.Generator().manual_seed(1))
    expected = pipe(
        PROMPTS,
        photos,
        num_inference_steps=4,
        guidance_scale=3.0,
        image_guidance_scale=1.5,
        generator=generators(),
        output_type="latent",
    ).images
    how = plan(model, 4, guidance=3.0)
    assert how.guidance.image == 1.5
    mine = list(sample_latents(model, as_condition(model, photos), PROMPTS, SEEDS, how))[-1].x0
    torch.testing.assert_close(mine, expected, **CLOSE)


def test_half_precision_draws_about_the_same(fetched: Path):
    given = conditions(load(fetched, "depth", "undistilled"))
    full, half = (
        list(sample_latents(model, given, PROMPTS, SEEDS, Plan(3, "ddim", Guidance())))[-1].x0
        for model in (load(fetched, "depth", "undistilled", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    )
    assert half.dtype == torch.float32, "states keep their precision"
    assert 0 < (full - half).abs().mean() < 0.1 * full.abs().mean()


def test_pictures_are_drawn_at_every_step(fetched: Path):
    model = load(fetched, "depth", "lcm")
    steps = list(sample(model, conditions(model)[0].mean(0).numpy(), "a lake", steps=4))
    assert [step.image.size for step in steps] == [(64, 64)] * 4


def test_a_small_decoder_draws_the_steps_on_the_way(fetched: Path):
    model = load(fetched, "depth", "lcm")
    given = conditions(model)[0].mean(0).numpy()
    full, fast = (list(sample(model, given, "a lake", steps=3, preview=how)) for how in ("full", "fast"))
    assert full[0].image.tobytes() != fast[0].image.tobytes()
    assert full[2].image.tobytes() == fast[2].image.tobytes()
    calls = []
    handle = model.components.preview.decoder.register_forward_hook(lambda *_: calls.append(1))
    list(sample(model, given, "a lake", steps=3, preview="fast"))
    handle.remove()
    assert len(calls) == 2


def test_fetching_again_fetches_only_what_is_missing(fetched: Path, tmp_path: Path):
    row = family(load(fetched, "depth", "undistilled").components.schedule.prediction_type)
    shutil.copytree(fetched, tmp_path / "family")
    assert missing(row, tmp_path / "family") == []
    shutil.rmtree(tmp_path / "family" / "edit")
    gone = ["edit/undistilled/unet", "edit/undistilled/cdd.json", "edit/lcm/unet", "edit/lcm/lora", "edit/lcm/cdd.json"]
    assert missing(row, tmp_path / "family") == gone
    nowhere = Folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no repository maker/pix2pix"):
        fetch(row, tmp_path / "family", nowhere)
    assert missing(row, tmp_path / "family") == gone


def test_pickled_weights_are_not_fetched(tmp_path: Path):
    write_repositories(tmp_path / "hub", None)
    for path in (tmp_path / "hub" / "maker" / "depth").glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match="all but this is here: depth/undistilled: maker/depth holds no safe"):
        fetch(family("epsilon"), tmp_path / "family", Folder(tmp_path / "hub"))
    lacking = missing(family("epsilon"), tmp_path / "family")
    assert lacking
    assert {part.split("/")[0] for part in lacking} == {"depth"}


def test_a_small_extra_that_is_out_of_reach_costs_itself_alone(tmp_path: Path):
    write_repositories(tmp_path / "hub", None)
    row = replace(family("epsilon"), preview="maker/nowhere")
    with pytest.raises(FileNotFoundError, match="all but this is here: base/preview: .* no repository maker/nowhere"):
        fetch(row, tmp_path / "family", Folder(tmp_path / "hub"))
    assert missing(row, tmp_path / "family") == ["base/preview"]


def test_distilled_weights_of_another_base_are_refused(fetched: Path, tmp_path: Path):
    theirs, own = tmp_path / "hub" / "you" / "student", tmp_path / "family"
    shutil.copytree(fetched / "depth" / "lcm", theirs)
    shutil.rmtree(theirs / "lora")
    (own / "base" / "unet").mkdir(parents=True)
    config = json.loads((theirs / "controlnet" / "config.json").read_text())
    for width, told in ((config["cross_attention_dim"] + 4, "belong to another base"), (None, "")):
        stated = config | ({"cross_attention_dim": width} if told else {})
        (own / "base" / "unet" / "config.json").write_text(json.dumps(stated))
        if told:
            with pytest.raises(ValueError, match=told):
                fetch_distilled("you/student", own, Folder(tmp_path / "hub"))
            assert not (own / "depth" / "distilled").exists()
        else:
            fetch_distilled("you/student", own, Folder(tmp_path / "hub"))
    assert (own / "depth" / "distilled" / "controlnet").is_dir()


def test_what_is_missing_is_told_with_the_command_that_gets_it(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """Of families in the catalogue; the safety checker too, without which nothing is drawn unasked."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(fetched, tmp_path / "checkpoints" / "mine")
    depth = {"task": "depth", "variant": "undistilled", "parts": {"controlnet": "a/b"}}
    facts = {"base": "a/b", "prediction_type": "epsilon", "safety": "a/b", "models": [depth]}
    rows = [{"name": name, **facts} for name in ("mine", "sd21")]
    (tmp_path / "checkpoints" / "cards.yaml").write_text(yaml.safe_dump({"families": rows}))
    photo = tmp_path / "photo.png"
    Image.fromarray(RAMP8).save(photo)
    shutil.rmtree(tmp_path / "checkpoints" / "mine" / "safety", ignore_errors=True)
    shutil.rmtree(tmp_path / "checkpoints" / "mine" / "depth" / "undistilled")
    draw = ["sample", "--image", str(photo), "--out", str(tmp_path / "out")]
    tried = {
        "sd21": [*draw, "--model", "sd21"],
        "mine": [*draw, "--model", "mine", "--variant", "lcm", "--steps", "1"],
        "sd21 ": ["take-in", "--source", str(tmp_path), "--model", "sd21"],
        " sd21": ["distill", "--shipped", "checkpoints/sd21", "--data", str(tmp_path), "--dry-run"],
    }
    for name, command in tried.items():
        assert main([*command, "--device", "cpu"]) == 2, command
        assert f"python -m cdd_core fetch --family {name.strip()}" in capsys.readouterr().err, command
    assert main([*tried["mine"], "--device", "cpu", "--no-safety-checker"]) == 0
    mine = tmp_path / "checkpoints" / "mine"
    shop = Workshop(tmp_path, tmp_path, tmp_path, mine, TerraConfig(), torch.device("cpu"))
    with pytest.raises(FileNotFoundError, match="undistilled/controlnet; fetch them with"):
        shop.part("depth", "controlnet")


def test_what_a_network_predicts_is_asserted(tmp_path: Path):
    write_repositories(tmp_path / "hub", "v_prediction")
    with pytest.raises(ValueError, match="one of them is wrong"):
        fetch(family("epsilon"), tmp_path / "family", Folder(tmp_path / "hub"))


def test_the_catalogue_has_stable_diffusion(tmp_path: Path):
    rows = read_families(ROOT / "checkpoints" / "cards.yaml")
    row = rows["sd15"]
    assert (row.prediction_type, rows["sd21"].prediction_type) == ("epsilon", "v_prediction")
    assert {model.variant for model in rows["sd21"].models} == {"undistilled"}
    shutil.copyfile(ROOT / "checkpoints" / "cards.yaml", tmp_path / "cards.yaml")
    assert "distil a model of your own" in remedy(tmp_path / "sd21")
    assert remedy(tmp_path / "sd15").endswith("fetch --family sd15")
    assert {(model.task, model.variant) for model in row.models} >= {
        ("depth", "undistilled"),
        ("depth", "lcm"),
        ("edit", "undistilled"),
        ("upscale", "undistilled"),
    }
    assert len(missing(row, tmp_path)) > 10
    (tmp_path / "bad.yaml").write_text(json.dumps({"families": [{"name": "x", "base": "a/b"}]}))
    with pytest.raises(ValueError, match="can't read"):
        read_families(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text(json.dumps({"families": [{"name": "x", "base": "a/b", "prediction_type": "y"}]}))
    with pytest.raises(ValueError, match="unknown"):
        read_families(tmp_path / "bad.yaml")
