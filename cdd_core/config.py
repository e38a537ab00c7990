"""Every choice of a training run as a typed value, and the named presets, each with its purpose and result.

Those of distillation are in :mod:`cdd_core.recipes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LoopConfig:
    """Budget and optimiser of one run; read by the trainer alone."""

    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int = 200
    cooldown: float = 0.25  # share of the run over which the learning rate falls to zero
    ema_decay: float = 0.999
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    precision: str = "auto"  # no, bf16, fp16 (accelerate's mixed precision), or what the device does fastest
    seed: int = 0
    log_every: int = 20
    save_minutes: float = 10.0
    tracker: str = "tensorboard"  # or wandb, trackio: whatever accelerate knows and is installed
    optimizer: str = "adamw"  # or adamw8bit, with bitsandbytes on a GPU
    compile: bool = False  # torch.compile of the networks' blocks; needs a C++ compiler, and a minute or more
    checkpointing: bool = False  # compute activations again in the backward pass instead of keeping them


@dataclass(frozen=True)
class TerraConfig:
    """Which world the pocket family learns from, how much of it, and how many squares of photographs."""

    scenes: int = 100_000
    edits: int = 50_000  # of the first scenes, drawn once more after their change
    enlarged: int = 40_000  # of the first scenes, degraded for super-resolution
    squares: int = 20_000  # cut from photographs, likewise
    seed: int = 0
    size: int = 128


@dataclass(frozen=True)
class NetConfig:
    """Sizes of the pocket networks."""

    channels: tuple[int, ...] = (64, 96, 128)
    heads: int = 4
    groups: int = 16
    context: int = 128
    text_layers: int = 3
    embedding: tuple[int, ...] = (16, 32, 64)  # ControlNet's condition: 128 px to 32


@dataclass(frozen=True)
class VaeConfig:
    """Autoencoder: 128 px to latents of 32 x 32 x 4 and back. Residual blocks are given from full resolution down."""

    loop: LoopConfig
    encoder_channels: int = 32
    encoder_blocks: tuple[int, int, int] = (0, 2, 4)
    decoder_channels: int = 48
    decoder_blocks: tuple[int, int, int] = (0, 4, 4)
    crop: int = 64
    latent_noise: float = 0.05  # standard deviation added to unit latents: the decoder forgives what a sampler errs
    moment_weight: float = 0.01


VAE_PRESETS = {
    # Two CPU cores: ten minutes with bf16 instructions, 30 without. Blocks at full resolution were dearer, not better.
    "pocket": VaeConfig(LoopConfig(steps=6000, batch=16, learning_rate=1.5e-3, ema_decay=0.995)),
    # The presets called gpu are for one card; this one and the decoder's are untried so far.
    "gpu": VaeConfig(LoopConfig(steps=20_000, batch=64, learning_rate=1.5e-3, ema_decay=0.999)),
}


@dataclass(frozen=True)
class DecoderConfig:
    """Second half of the autoencoder's training: the encoder stays, the decoder learns texture from a critic.

    A mean error alone is least where grass is a green blur. Latents do not change, so what was trained on them stays.
    """

    loop: LoopConfig
    crop: int = 64
    latent_noise: float = 0.05
    adversarial_weight: float = 0.3  # of the critic's gradient against the mean error's, at the decoder's last layer
    critic_channels: tuple[int, ...] = (32, 64, 96)
    photo_share: float = 0.3  # of photographs among the pictures, where there are any


DECODER_PRESETS = {
    "pocket": DecoderConfig(LoopConfig(steps=6000, batch=16, learning_rate=4e-4, ema_decay=0.998, betas=(0.5, 0.99))),
    "gpu": DecoderConfig(LoopConfig(steps=20_000, batch=64, learning_rate=4e-4, ema_decay=0.999, betas=(0.5, 0.99))),
}


@dataclass(frozen=True)
class TextConfig:
    """The text encoder by itself; it stays as it is from then on."""

    loop: LoopConfig
    net: NetConfig = NetConfig()
    keep: float = 0.7  # probability that a caption mentions a given attribute
    instruction_share: float = 0.3
    start: str = ""  # folder of a text encoder to begin with


TEXT_PRESETS = {
    "pocket": TextConfig(LoopConfig(steps=2_000, batch=128, learning_rate=1e-3, ema_decay=0.99)),
}


@dataclass(frozen=True)
class DenoisingConfig:
    """An undistilled diffusion model: the text-to-image base, or an adapter on it."""

    loop: LoopConfig
    net: NetConfig = NetConfig()
    condition: str = ""  # "" trains the base; a task trains its adapter, or its own copy of the U-Net
    prompt_dropout: float = 0.1
    start: str = ""  # folder of the same network, trained before, to begin with


BASE_PRESETS = {
    # 150 minutes on two CPU cores, on others twice that. What is shipped came of four runs (--start): 12,000 steps at
    # 8e-4, with a text encoder that learnt along and became the start of the stage text; twice 8,000 at 3e-4 with the
    # frozen one of that stage (what spoilt those two: docs/results.md); and 1,200 of 512 at 1e-3 on a GPU.
    "pocket": DenoisingConfig(LoopConfig(steps=28_000, batch=32, learning_rate=5e-4, ema_decay=0.9985)),
    # Ten minutes on an H100: 7 steps a second.
    "gpu": DenoisingConfig(LoopConfig(4_000, 512, learning_rate=1e-3, ema_decay=0.998)),
}
DEPTH_PRESETS = {
    # Likewise: about 75 minutes; what is shipped had 4,000 steps at 6e-4 on the first base, 3,000 and 4,000 at 4e-4 on
    # the second and third, and 700 of 512 at 1e-3 on the last one, on a GPU.
    "pocket": DenoisingConfig(
        LoopConfig(steps=11_000, batch=32, learning_rate=5e-4, ema_decay=0.998), condition="depth"
    ),
    # Likewise; 8 a second.
    "gpu": DenoisingConfig(LoopConfig(4_000, 512, learning_rate=1e-3, ema_decay=0.998), condition="depth"),
}


EDIT_PRESETS = {
    # An hour on two CPU cores.
    "pocket": DenoisingConfig(LoopConfig(9_000, batch=32, learning_rate=6e-4, ema_decay=0.998), condition="edit"),
}


UPSCALE_PRESETS = {
    # Its picture is never left out: nothing guides by it.
    "pocket": DenoisingConfig(
        LoopConfig(6_000, batch=32, learning_rate=6e-4, ema_decay=0.998), condition="upscale", prompt_dropout=0.0
    ),
}


@dataclass(frozen=True)
class CddConfig:
    """A distillation.

    Attributes:
        scope: ``adapter`` trains the ControlNet alone on the shared frozen base, ``full`` a copy of the base too,
            ``lora`` low-rank changes of it instead.
        lora_rank: of them.
        adapter_once: the ControlNet sees condition and prompt alone, and runs once for all steps.
        start: ``base`` begins with a fresh zero-convolution adapter (condition learning and distillation in one
            stage, as the paper), ``undistilled`` with the undistilled adapter.
        go_on_from: folder of the same networks, distilled before, whose weights the student begins with.
        ode: whose prediction leads from z_t to z_s: ``student``, ``teacher`` or ``data`` (the true x and eps).
        consistency: compare noise (``eps``, eq. 15) or signal (``x``).
        consistency_weight: 0 leaves the consistency term out, and with it the target's pass.
        anchor_weight: lambda of d_x(x, x_t).
        stages: N, points of the time axis; dt is T / N.
        teacher_steps: of DDIM, in which the teacher leads from one point to the next.
        target_decay: gamma of the target network's moving average; 0 is the student itself.
        shared_time: one timestep for the whole batch.
        skip: Eq. 17's skip connection on the signal; v-prediction meets the boundary without it.
        guidance, image_guidance: of the teacher by prompt and by picture, baked into the student.
        own_states: share of examples whose state is the student's own picture, drawn in one step and noised anew. That
            is what re-noising meets, where what a first step got wrong shows; in true pictures it never does. The idea
            is that of backward distillation (Kohler et al. 2024, Imagine Flash, arXiv 2405.05224). With ode=data
            there is no consistency at these, so that a discriminator alone judges what the student makes of them.
        own_anchor: lambda of d_x for these; makes sense where the true picture is known but for detail, as of an edit.
        matching_weight: of the distribution matching loss (``distill/matching.py``); 0 leaves the critic out.
        adversarial_weight: how strongly the discriminator's opinion (``distill/adversarial.py``) pulls at the student's
            pictures, against the losses of the signal; 0 leaves it out.
        instance_noise: standard deviation of the noise that the discriminator sees everything through, in units of one
            latent: details finer than that it can't decide by, or teach.
        huber: see ``cdd.distance``.
        snr_clip: see ``cdd.signal_weight``; acts where noise is predicted.
        prompt_dropout: share of examples that learn without a prompt; none where pictures are changed.
        samplers, renoise_from, noise_scale: what the finished student is best sampled with, see ``cards.Card``. Where
            the condition leaves little open, as when pictures are changed, what the first step drew is right but for
            detail, and ``renoise_from`` 0.12 keeps it: of 400 held-out edits in four steps 96 % did what was asked and
            92 % kept the rest, evenly spread 93 % and 89 % (of the editor before the shipped one). For depth maps,
            which leave more open, the excess was twice as large at 0.4 as at 1 (of an earlier student).
            ``noise_scale``: docs/results.md.
    """

    loop: LoopConfig
    net: NetConfig = NetConfig()
    task: str = "depth"
    scope: str = "adapter"
    lora_rank: int = 32
    adapter_once: bool = False
    start: str = "undistilled"
    go_on_from: str = ""
    ode: str = "data"
    consistency: str = "x"
    consistency_weight: float = 1.0
    anchor_weight: float = 0.1
    stages: int = 50
    teacher_steps: int = 1
    target_decay: float = 0.95
    shared_time: bool = False
    skip: bool = False
    guidance: float = 1.0
    image_guidance: float = 1.0
    own_states: float = 0.0
    own_anchor: float = 0.0
    matching_weight: float = 0.0
    adversarial_weight: float = 0.0
    instance_noise: float = 0.2
    huber: float = 0.0
    snr_clip: float = 0.0
    prompt_dropout: float = 0.05
    samplers: tuple[tuple[int, str], ...] = ((0, "renoise"),)
    renoise_from: float = 1.0
    noise_scale: float = 1.0

    @property
    def needs_undistilled(self) -> bool:
        """An undistilled model has a part in it: as the start, as the teacher, or as the goal."""
        return self.start == "undistilled" or self.ode == "teacher" or self.matching_weight > 0


@dataclass(frozen=True)
class ProbeConfig:
    """The judge of every table."""

    loop: LoopConfig
    depth_weight: float = 10.0


PROBE_PRESETS = {
    "A": ProbeConfig(LoopConfig(steps=2_500, batch=32, learning_rate=2e-3, ema_decay=0.995, seed=1)),
    "B": ProbeConfig(LoopConfig(steps=2_500, batch=32, learning_rate=2e-3, ema_decay=0.995, seed=2)),
}


@dataclass(frozen=True)
class EvaluateConfig:
    """What to measure; the empty tuples stand for the standard table, see docs/metrics.md."""

    task: str = "depth"
    variants: tuple[str, ...] = ("undistilled", "distilled")
    samplers: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    guidance: tuple[float, ...] = ()
    image_guidance: tuple[float, ...] = ()
    n: int = 2000
    world: int = 0  # of Terra's scenes; what is chosen by measuring is chosen in another one
    seed: int = 0
    bootstrap: int = 1000  # resamplings
    precision: str = "no"  # as in a training: no, bf16, fp16 or auto
    imagenet: bool = False  # FID and LPIPS proper, too
    out: Path = Path("docs/results/depth")
    known: Path = Path("docs/results/depth")  # rows measured before lie there too
    cache: Path = Path("runs/evaluation")  # rendered scenes and what was measured so far
