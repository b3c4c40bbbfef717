"""Where a command computes, and with whose code: read before torch is imported, so that everything obeys it."""

from __future__ import annotations

import os
import re
import sys

from flowprune.errors import RecipeError

ALLOWED: list[str] = []
"""Names of methods of third parties that artifacts may ask for in this process."""


def use_device(name: str | None) -> str | None:
    """Have Accelerate, and so every command, use this device.

    Raises:
        RecipeError: there is no such kind of device.
    """
    if name is None:
        return None
    if not re.fullmatch(r"cpu|mps|(cuda|xpu|npu)(:\d+)?", name):
        raise RecipeError(f"--device {name!r} is not known; use cpu, cuda, cuda:1 or mps")
    os.environ["ACCELERATE_TORCH_DEVICE"] = name
    return name


def use_methods_of_others(names: list[str] | None) -> list[str] | None:
    """Have every artifact that is loaded use these methods of third parties, where its steps name them."""
    ALLOWED[:] = names or ()
    return names


def use_threads(count: int | None) -> int | None:
    """Have torch, and whatever else computes, use so many threads."""
    if count is None:
        return None
    os.environ["OMP_NUM_THREADS"] = str(count)
    if "torch" in sys.modules:  # it has read the variable already
        sys.modules["torch"].set_num_threads(count)
    return count
