"""What a folder of weights says of itself: ``cdd.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cdd_core.checkpoint import write_json

CARD = "cdd.json"
ONCE = "controlnet-once"  # a ControlNet that runs once for all steps; stock pipelines can't do that


def variants_in(home: Path) -> list[str]:
    """Models of a task that are all there; a card is written last, and what is still being written has a dot."""
    return sorted(card.parent.name for card in home.glob(f"*/{CARD}") if "." not in card.parent.name)


@dataclass(frozen=True)
class Card:
    """Facts that a sampler needs beside the weights, and where the weights come from.

    Attributes:
        task: a key of ``tasks.TASKS``.
        variant: ``undistilled`` or ``distilled``.
        base: folder of the shared parts, relative to the card.
        adapter: how the condition enters: ``controlnet``, :data:`ONCE` or ``concat``, see ``adapters``.
        stages: points of the time axis the model was trained on; its few-step grids are taken from them.
        samplers: number of steps to ``ddim`` or ``renoise``; the key 0 stands for every other number.
        renoise_from: where re-noising goes on after the first step, see ``schedule.grid``.
        noise_scale: standard deviation of the noise that re-noising adds, of what the noise level says; see
            ``sampler.Renoise``.
        guidance: text guidance to sample with; 1 for a model that has it baked in.
        image_guidance: likewise of the picture that is edited.
        words: if there are any, a prompt without one of them asks for nothing that the model knows.
        condition_gamma: exponent of the depth condition, see ``tasks.depth_condition``.
        steps: steps a person would want first.
        sizes: pixels a side that it can draw beside its own size.
        unet: folder, relative to the card, of the U-Net that low-rank changes apply to, if it isn't the base's.
        provenance: command, commit, data, recipe and ancestors, see ``provenance.begin``.
    """

    task: str
    variant: str
    base: str
    adapter: str
    stages: int
    samplers: dict[int, str]
    guidance: float
    condition_gamma: float
    steps: int
    provenance: dict[str, object] = field(default_factory=dict)
    image_guidance: float = 1.0
    words: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    unet: str = ""
    renoise_from: float = 1.0
    noise_scale: float = 1.0

    def sampler_for(self, steps: int) -> str:
        """The sampler measured to be best for this number of steps."""
        return self.samplers.get(steps, self.samplers[0])

    @classmethod
    def read(cls, folder: Path) -> Card:
        """Read ``folder/cdd.json``.

        Raises:
            FileNotFoundError: there is none.
            ValueError: a field is missing or unknown.
        """
        path = folder / CARD
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no {CARD}, so it isn't known how to sample from these weights")
        content = json.loads(path.read_text(encoding="utf-8"))
        try:
            content["samplers"] = {int(k): v for k, v in content["samplers"].items()}
            content["samplers"][0]
            content |= {name: tuple(content.get(name, ())) for name in ("words", "sizes")}
            return cls(**content)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not a card of this version: {error}") from error

    def write(self, folder: Path) -> None:
        """Write ``folder/cdd.json``."""
        write_json(folder / CARD, asdict(self))
