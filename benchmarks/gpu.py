"""Stable Diffusion 1.5 at 512 px on a CUDA device, with random weights: pictures beside diffusers' own pipeline, by
turns, and then training steps of each recipe after the other.

    python -m benchmarks.gpu --out docs/gpu.json

``floor`` is what the arithmetic and the memory of this card allow: for every convolution, matrix product and attention
of the same call the longer of its operations over the measured rate and its bytes over the measured bandwidth.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from diffusers import DDIMScheduler, StableDiffusionControlNetPipeline
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.cost import SIDE, WIDTHS, Nets, build
from benchmarks.gpu_training import SCHEDULER, train_all, words_of
from benchmarks.report import publish
from benchmarks.speed import PROMPT, draw, race
from cdd_core.cards import ONCE, Card
from cdd_core.data.latents import decode
from cdd_core.denoiser import assemble, frozen
from cdd_core.graphs import replay_networks
from cdd_core.inference import plan
from cdd_core.loading import Model
from cdd_core.models import Components, embed_prompts
from cdd_core.provenance import current_commit
from cdd_core.speed import compile_blocks

RIVAL = "diffusers' pipeline, 4 guided steps"
FASTER = f"{RIVAL}, channels last, CUDA graphs"


@dataclass(frozen=True)
class Options:
    """What to time."""

    device: str = "cuda"
    rounds: int = 15
    compile: bool = True
    training: bool = True
    batch: int = 32
    """Of the training steps; as large as the device has work enough."""
    tokenizer: Path = Path("checkpoints/pocket/base/tokenizer")
    widths: tuple[int, ...] = WIDTHS
    side: int = SIDE
    out: Path | None = None


class Floor(TorchDispatchMode):
    """Adds up the least seconds of whatever is computed meanwhile.

    Args:
        rate: operations a second.
        bandwidth: bytes a second.
    """

    def __init__(self, rate: float, bandwidth: float) -> None:
        super().__init__()
        self.rate, self.bandwidth, self.seconds = rate, bandwidth, 0.0

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple[object, ...] = (), kwargs: dict | None = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            operations = flop_registry[packet](*args, **(kwargs or {}), out_val=result)
            moved = sum(leaf.nbytes for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor))
            self.seconds += max(operations / self.rate, moved / self.bandwidth)
        return result


def ceilings(device: str) -> tuple[float, float]:
    """Measured: operations a second of a large product in half precision, bytes a second of a large copy."""
    side, rounds = (8192, 20) if device == "cuda" else (256, 2)
    a, b = (torch.randn(side, side, device=device, dtype=torch.float16) for _ in range(2))
    source, target = (torch.empty(side * side * 16, dtype=torch.uint8, device=device) for _ in range(2))

    def many(run: Callable[[], object]) -> Callable[[], object]:
        return lambda: [run() for _ in range(rounds)]

    taken = race({"product": many(lambda: a @ b), "copy": many(lambda: target.copy_(source))}, 3)
    return 2 * side**3 * rounds / taken["product"], 2 * source.nbytes * rounds / taken["copy"]


def assembled(nets: Nets, text: CLIPTextModel, tokenizer: CLIPTokenizer, device: str, once: bool) -> Model:
    """Our own model of these networks, as ``loading.load`` puts it together, in channels-last layout."""
    parts = Components(nets.vae, tokenizer, text, nets.unet, dict(DDIMScheduler(**SCHEDULER).config), nets.tiny)
    denoiser = assemble(nn.ModuleDict({"controlnet": nets.controlnet}), nets.unet, parts.schedule, once)
    for part in (denoiser, nets.vae, nets.tiny):
        frozen(part).to(memory_format=torch.channels_last)
    adapter = ONCE if once else "controlnet"
    card = Card("depth", "distilled", "", adapter, 20, {0: "ddim"}, 1.0, 1.0, 4)
    return Model(parts, denoiser, card, torch.device(device))


def stock(nets: Nets, text: CLIPTextModel, tokenizer: CLIPTokenizer) -> StableDiffusionControlNetPipeline:
    """diffusers' own, in its own layout."""
    pipeline = StableDiffusionControlNetPipeline(
        vae=nets.vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=nets.unet,
        controlnet=nets.controlnet,
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@dataclass(frozen=True)
class Studio:
    """What every contestant needs: networks to copy, words, and a picture to go by."""

    nets: Nets
    text: CLIPTextModel
    tokenizer: CLIPTokenizer
    condition: Tensor

    @classmethod
    def open(cls, options: Options) -> Studio:
        """Random weights on the device, in half precision on a GPU."""
        dtype = torch.float16 if options.device == "cuda" else torch.float32
        nets = build(options.device, dtype, options.widths, options.side)
        tokenizer, config = words_of(options.tokenizer)
        condition = torch.rand(1, 3, 8 * options.side, 8 * options.side, device=options.device)
        text = CLIPTextModel(config).to(options.device, dtype)
        return cls(nets, frozen(text), tokenizer, condition)

    def model(self, once: bool = True, compiled: bool = False, replayed: bool = True) -> Model:
        """Our own, with networks of its own, as fast as ``app.py --compile`` has it if asked to."""
        nets, device = copy.deepcopy(self.nets), str(self.condition.device)
        made = assembled(nets, self.text, self.tokenizer, device, once)
        for part in (made.denoiser, made.components.vae) if compiled else ():
            compile_blocks(part)
        if replayed:
            replay_networks(made.denoiser, made.components.vae, made.components.preview)
        return made


def pictures(options: Options, compiled: bool) -> dict[str, object]:
    """All ways to a picture, and the floor of the shortest."""
    studio = Studio.open(options)
    condition = studio.condition
    ways = {"plain": studio.model(replayed=False), "CUDA graphs": studio.model()}
    if compiled:
        ways["blocks compiled, CUDA graphs"] = studio.model(compiled=True)
    contestants = rivals(studio)
    every = studio.model(once=False)
    name = "4 distilled steps, adapter at every step, full decoder, CUDA graphs"
    contestants[name] = lambda: draw(every, condition, plan(every, 4))
    for way, model in ways.items():
        for decoder, small in (("full", False), ("small", True)):
            name = f"4 distilled steps, adapter once, {decoder} decoder, {way}"
            contestants[name] = lambda model=model, small=small: draw(model, condition, plan(model, 4), small)
    with torch.no_grad():
        rate, bandwidth = ceilings(options.device)
        floors = {}
        for decoder, small in (("full", False), ("small", True)):
            with Floor(rate, bandwidth) as floor:
                draw(ways["plain"], condition, plan(ways["plain"], 4), small)
            floors[decoder] = floor.seconds
        memory = {f"{decoder} decoder, plain": peak(ways["plain"], condition, decoder == "small") for decoder in floors}
        found = race(contestants, options.rounds)
        alone = race({f"{part}, {way}": run for way, m in ways.items() for part, run in parts(m, condition)}, 5)
    return {
        "tera_operations_a_second": rate / 1e12,
        "tera_bytes_a_second": bandwidth / 1e12,
        "floor_seconds": floors,
        "peak_memory_gib": memory,
        "seconds": found,
        "seconds_of_parts": alone,
        "ratio_to_rival": {name: taken / found[RIVAL] for name, taken in found.items()},
        "share_of_floor": {
            name: floors["small" if "small" in name else "full"] / taken
            for name, taken in found.items()
            if "once" in name
        },
    }


def rivals(studio: Studio) -> dict[str, Callable[[], object]]:
    """diffusers' own pipeline as it comes, and with what helps ours and needs no other model."""
    size, found = studio.condition.shape[-1], {}
    for name in (RIVAL, FASTER):
        nets = copy.deepcopy(studio.nets)
        if name == FASTER:
            for net in (nets.unet, nets.controlnet, nets.vae):
                net.to(memory_format=torch.channels_last)
            replay_networks(nets.unet, nets.controlnet, nets.vae)
        pipe = stock(nets, studio.text, studio.tokenizer)
        chosen = {"height": size, "width": size, "num_inference_steps": 4, "guidance_scale": 7.5, "output_type": "pt"}
        found[name] = partial(pipe, PROMPT, studio.condition, **chosen)
    return found


def parts(model: Model, condition: Tensor) -> list[tuple[str, Callable[[], object]]]:
    """Each network's call by itself."""
    own, denoiser, dtype = model.components, model.denoiser, model.denoiser.unet.dtype
    side = condition.shape[-1] // 8
    z, t = torch.randn(1, 4, side, side, device=model.device), torch.tensor([500], device=model.device)
    text, shown = embed_prompts(own, [PROMPT]).prompt.to(dtype), condition.to(dtype)
    return [
        ("text encoder", lambda: embed_prompts(own, [PROMPT])),
        ("U-Net", lambda: denoiser.unet(z.to(dtype), t, text, return_dict=False)),
        ("ControlNet", lambda: denoiser.adapter.net(z.to(dtype), t, text, controlnet_cond=shown, return_dict=False)),
        ("full decoder", lambda: decode(own.vae, z)),
        ("small decoder", lambda: decode(own.preview, z)),
    ]


def peak(model: Model, condition: Tensor, small: bool) -> float:
    """GiB that a picture takes at most, with the weights it needs, without graphs."""
    if condition.device.type != "cuda":
        return 0.0
    draw(model, condition, plan(model, 4), small)
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    draw(model, condition, plan(model, 4), small)
    own = model.components
    nets = (model.denoiser, own.preview if small else own.vae, own.text_encoder)
    weights = sum(p.nbytes for net in nets for p in net.parameters())
    return (torch.cuda.max_memory_allocated() - before + weights) / 2**30


def main(options: Options) -> dict[str, object]:
    """Time, print, and keep it if asked to."""
    named = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    report: dict[str, object] = {"device": named, "torch": torch.__version__, "commit": current_commit()}
    report |= {"rounds": options.rounds, "training_batch": options.batch}
    if options.training:
        report["training"] = train_all(options.device, options.batch, options.widths, options.side, options.tokenizer)
        publish(report, options.out)
    for compiled in (False, True) if options.compile else (False,):
        gc.collect()  # networks that are replayed refer to themselves
        report["pictures"] = pictures(options, compiled)
        publish(report, options.out)
    return report


if __name__ == "__main__":
    main(tyro.cli(Options))
