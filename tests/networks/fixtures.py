"""What the authors' own code gives: files of inputs and outputs in the folder that FLOWPRUNE_FIXTURES names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch


def fixture(name: str) -> dict[str, Any]:
    """The contents of a file; skips the test where the folder or the file is not there."""
    folder = os.environ.get("FLOWPRUNE_FIXTURES")
    if not folder:
        pytest.skip("FLOWPRUNE_FIXTURES names no folder of the authors' results")
    path = Path(folder) / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not in the folder that FLOWPRUNE_FIXTURES names")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def double(numbers: Any) -> torch.Tensor:
    """Numbers of a file as they are written there: in float64."""
    return torch.tensor(numbers, dtype=torch.float64)
