"""Seeds made of other numbers."""

from __future__ import annotations

import numpy as np


def derived_seed(*key: int) -> int:
    """A seed for torch that depends on all of these non-negative numbers and their order, and on nothing else."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
