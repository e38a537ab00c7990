"""The named recipes of distillation, each with its purpose and result."""

from __future__ import annotations

from dataclasses import replace

from cdd_core.config import CddConfig, LoopConfig

# Algorithm 1 with its typos put right; docs/maths.md says which and why.
PAPER = CddConfig(
    LoopConfig(steps=4_000, batch=32, learning_rate=3e-4, ema_decay=0.998, cooldown=0.1),
    scope="adapter",
    start="base",
    ode="student",
    consistency="eps",
    anchor_weight=1.0,
    stages=50,
    shared_time=True,
    samplers=((0, "ddim"),),
)
# A good teacher leads from z_t to z_s, whose variety the student keeps. True pairs lead to the mean of all pictures
# that a noisy state may come from, stage by stage, and clouds are gone. Re-noising draws better than DDIM at every
# number of steps (of the students before those that are shipped): keeping its own predicted noise, a student leaves the
# states it was trained on. What the shipped students came of: docs/pocket.md; for depth this recipe has only trained
# students further, from the undistilled model it is untried.
BEST = CddConfig(
    LoopConfig(steps=2_000, batch=32, learning_rate=4e-4, ema_decay=0.998),
    scope="full",
    start="undistilled",
    ode="teacher",
    consistency="x",
    anchor_weight=0.03,
    stages=50,
    huber=0.03,
)
BEST_OF = {
    # Errors of one stage are handed down to all that follow, so there are few, and the teacher takes each in several
    # steps; with 50 stages of one step, 4 evaluations were worse after 2,500 steps of training than after 750. What is
    # left too smooth by teacher and student alike, the noise makes up for.
    "depth": replace(
        BEST,
        loop=LoopConfig(1_500, batch=32, learning_rate=3e-4, warmup_steps=50, cooldown=0.5, ema_decay=0.998),
        stages=8,
        teacher_steps=6,
        noise_scale=1.04,
    ),
    # Guidance by words and picture is baked in. Three minutes on a GPU, beside other trainings.
    "edit": replace(
        BEST,
        loop=LoopConfig(700, batch=256, learning_rate=8e-4, ema_decay=0.998),
        guidance=1.5,
        image_guidance=1.5,
        own_states=0.5,
        own_anchor=0.1,
        renoise_from=0.12,
    ),
    # An enlargement leaves little open: true pairs keep it nearer to the picture.
    "upscale": replace(
        BEST, loop=LoopConfig(1_000, batch=32, learning_rate=4e-4, ema_decay=0.998), ode="data", noise_scale=1.03
    ),
}
# For families of Stable Diffusion's size, on one GPU or many; steps of them were timed, none was trained to its end.
SD_LOOP = LoopConfig(
    steps=10_000, batch=64, learning_rate=1e-5, warmup_steps=500, cooldown=0.1, ema_decay=0.9995, checkpointing=True
)
CDD_PRESETS = {
    "paper": PAPER,
    "best": BEST,
    "sd-paper": replace(PAPER, loop=SD_LOOP, snr_clip=5.0),
    # Guidance is baked in through the teacher's steps, and true pairs know of none.
    "sd-best": replace(BEST, loop=SD_LOOP, scope="adapter", guidance=7.5, snr_clip=5.0),
}


def distill_presets(task: str) -> dict[str, CddConfig]:
    """The presets as this task has them: what is best differs between tasks."""
    return {
        name: replace(config, task=task) for name, config in {**CDD_PRESETS, "best": BEST_OF.get(task, BEST)}.items()
    }


def as_objective(config: CddConfig, objective: str) -> CddConfig:
    """The recipe, or what it is without conditional distillation's own ideas, for comparison.

    Args:
        config: a recipe.
        objective: ``cdd`` leaves it as it is. ``consistency`` makes it consistency distillation (Song et al. 2023, as
            latent consistency models have it): a frozen teacher's ODE step, signals that agree, no anchor at the data,
            no own states and no discriminator.
    """
    if objective == "cdd":
        return config
    taught = replace(config, ode="teacher", consistency="x")
    return replace(taught, anchor_weight=0.0, own_states=0.0, adversarial_weight=0.0, matching_weight=0.0)
