"""Stage ``text``: before any picture is drawn, the text encoder learns what its captions and instructions say.

Stable Diffusion takes an encoder that CLIP taught. One that began at random beside the U-Net learnt the words that
change a whole picture (night, winter) and no others: of the pooled prompts, "with a lake" could not be told from
"without a lake" after 12,000 steps, and half of the lakes were missing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from cdd_core.config import TextConfig
from cdd_core.data.terra.attributes import ATTRIBUTES, Attributes
from cdd_core.data.terra.captions import instruction, phrase
from cdd_core.data.terra.landforms import LANDFORMS
from cdd_core.models import embed, tokenize
from cdd_core.trainer import Draws, Losses, Stage


class TextStage(Stage):
    """Cross-entropy of each attribute's value, or that it is not mentioned, read linearly off the mean hidden state.

    Args:
        config: see :class:`TextConfig`.
        text_encoder: learns.
        tokenizer: of the family.
    """

    def __init__(self, config: TextConfig, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        width = text_encoder.config.hidden_size
        heads = nn.ModuleDict({name: nn.Linear(width, len(values) + 1) for name, values in ATTRIBUTES.items()})
        self.student = nn.ModuleDict({"text_encoder": text_encoder, "heads": heads})

    def draw(self, generator: torch.Generator, count: int) -> Draws:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        said = [something_said(np.random.default_rng((seed, row)), self.config) for row in range(count)]
        texts, labels = zip(*said, strict=True)
        return {"tokens": tokenize(self.tokenizer, list(texts)), "labels": torch.tensor(labels)}

    def forward(self, draws: Draws) -> Losses:
        states = embed(self.student["text_encoder"], draws["tokens"]).mean(1)
        named = zip(self.student["heads"].values(), draws["labels"].unbind(1), strict=True)
        parts = [(head(states).float(), label) for head, label in named]
        losses = {"loss": sum(F.cross_entropy(logits, label) for logits, label in parts)}
        hits = torch.stack([(logits.argmax(1) == label).float().mean() for logits, label in parts])
        return {**losses, "accuracy": hits.mean()}

    def preview(self, averaged: nn.Module) -> Tensor:
        """There is nothing to see but the accuracy, which is logged."""
        return torch.zeros(3, 1, 1)

    def export(self, averaged: nn.Module, folder: Path) -> None:
        averaged["text_encoder"].save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")


def something_said(rng: np.random.Generator, config: TextConfig) -> tuple[str, list[int]]:
    """A caption, or the instruction for a change, and what it says of each attribute.

    Returns:
        the text, and for each attribute the number of its value, or one past the last if it isn't mentioned.
    """
    first, second = ({n: str(rng.choice(v)) for n, v in ATTRIBUTES.items()} for _ in range(2))
    if rng.random() < config.instruction_share:
        keep = {name: rng.random() < 0.6 for name in ATTRIBUTES}
        second = {name: first[name] if keep[name] else value for name, value in second.items()}
        mentioned = {name: first[name] != second[name] for name in ATTRIBUTES}
        if any(mentioned.values()):
            return instruction(Attributes(**first), Attributes(**second), rng), _labels(second, mentioned)
    mentioned = {name: rng.random() < config.keep for name in ATTRIBUTES}
    text = phrase(Attributes(**first), str(rng.choice(list(LANDFORMS))), rng, mentioned)
    return text, _labels(first, mentioned)


def _labels(values: dict[str, str], mentioned: dict[str, bool]) -> list[int]:
    return [known.index(values[name]) if mentioned[name] else len(known) for name, known in ATTRIBUTES.items()]
