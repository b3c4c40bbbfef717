"""Random numbers while a model is traced: the same ones in every pass, and none missing from the user's generators after it.

A layer that is dropped by ``random.random()`` must be dropped in the small model's pass as in the dense one's; else the two passes
part, and the certificate sees a wrong cut where there is none.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

_SEED = 0


@contextmanager
def repeated() -> Iterator[None]:
    """Inside, Python's ``random``, numpy's global generator and torch's on the CPU give the same numbers every time."""
    with torch.random.fork_rng(devices=[]), repeated_outside_torch():
        torch.default_generator.manual_seed(_SEED)  # torch.manual_seed would seed accelerators, too
        yield


@contextmanager
def repeated_outside_torch() -> Iterator[None]:
    """As ``repeated``, and torch draws on: over many batches, what torch drops at random must not be the same every time."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    random.seed(_SEED)
    if numpy["bit_generator"] == "MT19937":  # another one, put in by the user, takes no seed
        np.random.seed(_SEED)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def state_outside_torch() -> tuple[Any, ...]:
    """Where Python's and numpy's global generators stand; another state later says that numbers were drawn."""
    numpy = (
        leaf.tobytes() if isinstance(leaf, np.ndarray) else leaf for leaf in tree_leaves(np.random.get_state(False))
    )
    return random.getstate(), *numpy
