"""Random numbers while a model is traced: the same ones in every pass, and none missing from the user's generators after it.

A layer that is dropped by ``random.random()`` must be dropped in the small model's pass as in the dense one's; else the two passes
part, and the certificate sees a wrong cut where there is none.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

_SEED = 0


@dataclass
class Drawn:
    """Whether ``any`` numbers were drawn from Python's or numpy's global generator; known once the context is left."""

    any: bool = False


@contextmanager
def repeated() -> Iterator[Drawn]:
    """Inside, Python's ``random``, numpy's global generator and torch's on the CPU give the same numbers every time."""
    with torch.random.fork_rng(devices=[]), repeated_outside_torch() as drawn:
        torch.default_generator.manual_seed(_SEED)  # torch.manual_seed would seed accelerators, too
        yield drawn


@contextmanager
def repeated_outside_torch() -> Iterator[Drawn]:
    """As ``repeated``, and torch draws on: over many batches, what torch drops at random must not be the same every time."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    random.seed(_SEED)
    if numpy["bit_generator"] == "MT19937":  # another one, put in by the user, takes no seed
        np.random.seed(_SEED)
    drawn, seeded = Drawn(), _where_generators_stand()
    try:
        yield drawn
    finally:
        drawn.any = _where_generators_stand() != seeded
        random.setstate(python)
        np.random.set_state(numpy)


def _where_generators_stand() -> tuple[Any, ...]:
    leaves = tree_leaves(np.random.get_state(legacy=False))
    return random.getstate(), *(leaf.tobytes() if isinstance(leaf, np.ndarray) else leaf for leaf in leaves)
