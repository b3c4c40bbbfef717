"""The examples of docs/steps.md run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import blocks, run

PAGE = "docs/steps.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = blocks(PAGE, "python")
    assert len(examples) == 3
    monkeypatch.chdir(tmp_path)
    run(examples, PAGE)
