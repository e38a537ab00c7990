"""What every test may use: the device, a tiny family of models on disk, a browser if there is one."""

from __future__ import annotations

import os

# Before any of the libraries are imported: tests have no network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import shutil
from pathlib import Path

import pytest
import torch
from browsing import browser, page, shots, url  # noqa: F401 - fixtures
from diffusers import AutoencoderTiny
from torch import nn
from transformers import CLIPTokenizer

from cdd_core.config import CddConfig, LoopConfig, NetConfig
from cdd_core.export import distilled_card, export_adapter, export_base, undistilled_card
from cdd_core.loading import Model, load
from cdd_core.models import Components, build_controlnet, build_text_encoder, build_unet, scheduler_config, widened

TINY = NetConfig(channels=(16, 32), heads=2, groups=8, context=32, text_layers=1, embedding=(8, 8, 16))
LATENT_SIDE = 8
GAMMA = 0.5
STAGES = 20
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the networks run: cpu (default), cuda, cuda:1 ...")


def pytest_configure(config: pytest.Config) -> None:
    # The networks here are so small that threads waiting for each other cost ten times the work.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            pytest.skip(f"--device {chosen} was asked for, but torch sees no CUDA device")
        # Comparisons to 1e-5 need full float32 products.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return chosen


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a browser for Playwright; tests that need one are skipped without it."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH (Debian: apt-get install chromium)")
    return found


@pytest.fixture(scope="session")
def components() -> Components:
    """Random weights in the shape of the pocket family, 32 pixels a side; the same in every session."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer()
        unet = build_unet(TINY)
        unet.register_to_config(sample_size=LATENT_SIDE)
        for name, parameter in unet.named_parameters():
            if "attn2.to_v" in name:
                parameter.data *= 10  # an untrained network hardly hears the prompt; this one should
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
            latent_channels=4,
            scaling_factor=0.8,  # not 1, so that a forgotten scaling shows
        )
        return Components(vae, tokenizer, build_text_encoder(TINY, tokenizer), unet, scheduler_config())


def tiny_tokenizer() -> CLIPTokenizer:
    """Bytes and a few merges; learning a real vocabulary takes longer than all the tests."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    merges = [("l", "a"), ("k", "e</w>"), ("la", "ke</w>")]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=24)


def roughen(module: nn.Module) -> None:
    """Give a ControlNet's zero convolutions weights, as training would, so large that the condition counts."""
    for name, parameter in module.named_parameters():
        if parameter.abs().max() == 0:
            parameter.data = (8.0 if "cond_embedding" in name else 0.3) * torch.randn(parameter.shape)


@pytest.fixture(scope="session")
def family(components: Components, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``checkpoints/pocket``, written by the project's own export.

    ``depth/undistilled`` and ``depth/distilled`` have ControlNets that differ and matter; ``depth/untouched`` has
    one whose zero convolutions are still zero. ``edit/undistilled`` and ``upscale/undistilled`` take their picture as
    further input channels.
    """
    folder = tmp_path_factory.mktemp("family")
    export_base(components, folder / "base", {})
    undistilled = undistilled_card("depth", {}, 1000, GAMMA, 1.0)
    config = CddConfig(LoopConfig(1, 1, 1e-4), stages=STAGES, samplers=((0, "renoise"), (2, "ddim")))
    cards = {"undistilled": undistilled, "distilled": distilled_card(config, {}, GAMMA), "untouched": undistilled}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for variant, card in cards.items():
            net = build_controlnet(components.unet, TINY.embedding)
            if variant != "untouched":
                roughen(net)
            export_adapter({"controlnet": net}, None, card, folder / "depth" / variant)
        editor = widened(components.unet, 8)
        editor.conv_in.weight.data[:, 4:] = 0.3 * torch.randn(editor.conv_in.weight[:, 4:].shape)
        for task, scales in (("edit", (3.0, 1.5)), ("upscale", (1.0, 1.0))):
            card = undistilled_card(task, {}, 1000, GAMMA, *scales)
            export_adapter({"unet": editor}, None, card, folder / task / "undistilled")
    return folder


@pytest.fixture(scope="session")
def distilled(family: Path, device: torch.device) -> Model:
    return load(family, "depth", "distilled", device)


@pytest.fixture(scope="session")
def undistilled(family: Path, device: torch.device) -> Model:
    return load(family, "depth", "undistilled", device)


@pytest.fixture(scope="session")
def conditions(distilled: Model) -> torch.Tensor:
    """Four different conditions for the tiny models, (4, 3, S, S) in [0, 1]."""
    noise = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    return nn.functional.interpolate(noise, size=distilled.size, mode="bilinear").expand(-1, 3, -1, -1)
