"""Before and after: which change belongs to a scene, and how to ask for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cdd_core.data.terra.attributes import ATTRIBUTES, Attributes
from cdd_core.data.terra.captions import instruction, instruction_at_once

STREAM = 3  # of the random numbers of an index: its change is drawn here, nothing else is


@dataclass(frozen=True)
class Edit:
    """A change of one or two attributes."""

    before: Attributes
    after: Attributes

    @property
    def reversed(self) -> Edit:
        """The way back."""
        return Edit(self.after, self.before)

    def ask(self, rng: np.random.Generator) -> str:
        """One way to ask for it."""
        changed = {name for name in ATTRIBUTES if getattr(self.before, name) != getattr(self.after, name)}
        if changed == {"time", "season"} and rng.random() < 0.5:
            return instruction_at_once(self.after, rng)
        return instruction(self.before, self.after, rng)


def edit_of(seed: int, index: int, before: Attributes) -> Edit:
    """The change that belongs to (seed, index): one attribute, or every fourth time two."""
    rng = np.random.default_rng((seed, index, STREAM))
    after = before
    for name in rng.permutation(list(ATTRIBUTES))[: 1 + int(rng.random() < 0.25)]:
        others = [value for value in ATTRIBUTES[name] if value != getattr(before, name)]
        after = replace(after, **{str(name): str(rng.choice(others))})
    return Edit(before, after)
