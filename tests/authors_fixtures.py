"""Inputs and outputs of the authors' own programs, from the folder that FLOWPRUNE_FIXTURES names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def authors_fixture(name: str) -> dict[str, Any]:
    """The fixture of this name; the test is skipped where there are none."""
    folder = os.environ.get("FLOWPRUNE_FIXTURES")
    if not folder:
        pytest.skip("FLOWPRUNE_FIXTURES names no folder with the authors' outputs")
    found: dict[str, Any] = json.loads((Path(folder) / f"{name}.json").read_text(encoding="utf-8"))
    return found
