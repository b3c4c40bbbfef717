"""The widths that a machine likes: a table measured once and kept, or a stated default for each backend."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowprune.engine.measuring.latency import time_in_turns

DEFAULTS = {"pytorch": 8, "compiled": 8, "onnxruntime": 8}
"""Multiples where nothing was measured: the vectors of common processors hold 8 or 16 numbers of 32 bits, and small networks are
not 16 wide everywhere."""
CANDIDATES = (1, 2, 4, 8, 16)
CLOSE = 0.05
"""A multiple is good enough if its widths take at most this share more time for a multiply-accumulate than the best."""
_WIDTHS = (33, 34, 36, 40, 48)
"""Odd, and multiples of 2, 4, 8 and 16 but of no more."""


def table_file() -> Path:
    """Where the table is kept: in FLOWPRUNE_CACHE, else in the user's cache folder."""
    given = os.environ.get("FLOWPRUNE_CACHE")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(given) if given else caches / "flowprune") / "widths.json"


def preferred_multiple(backend: str) -> tuple[int, str]:
    """What widths should be multiples of on this machine, and where that is from, in words."""
    found = _table().get(_key(backend))
    if isinstance(found, dict) and found.get("multiple") in CANDIDATES:
        return int(found["multiple"]), f"measured for {backend} on this machine"
    return DEFAULTS[backend], f"the default for {backend}; flowprune bench --widths measures it"


def measure_widths(backend: str, turns: int = 15) -> dict[str, Any]:
    """Time 3x3 convolutions of several widths: which multiples this machine likes.

    Returns:
        "times": width -> seconds for a million multiply-accumulates; "multiple": the smallest whose width takes at most five per
        cent more than the best.
    """
    size, seconds = 28, {}
    for width in _WIDTHS:
        layers = nn.Sequential(*(nn.Conv2d(width, width, 3, padding=1) for _ in range(2)))
        (timing,) = time_in_turns([layers], torch.zeros(1, width, size, size), turns, backend)
        seconds[width] = timing.median / (2 * 9 * width * width * size * size / 1e6)
    best = min(seconds.values())
    good = [
        multiple for multiple, width in zip(CANDIDATES, _WIDTHS, strict=True) if seconds[width] <= (1 + CLOSE) * best
    ]
    return {"times": {str(width): value for width, value in seconds.items()}, "multiple": good[0]}


def keep(backend: str, found: dict[str, Any]) -> Path:
    """Write what was measured into the table, beside what is known of other backends; returns the file."""
    file = table_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".partial")
    temporary.write_text(json.dumps({**_table(), _key(backend): found}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(file)
    return file


def _key(backend: str) -> str:
    return f"{backend} {platform.machine()} {platform.processor() or platform.node()} {torch.get_num_threads()} threads"


def _table() -> dict[str, Any]:
    try:
        found = json.loads(table_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
