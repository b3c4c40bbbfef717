"""The example of docs/training.md runs as it stands, and what the page says of precision is what the settings take."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from documents import blocks, run, text_of

from flowprune.training import TrainingSettings
from flowprune.training.precision import CLEARLY_FASTER, WORTH_MEASURING
from flowprune.training.splits import SMALL_BYTES

PAGE = "docs/training.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(PAGE, "python")
    left = run([example], PAGE)
    assert left["result"].precision == "float32"  # type: ignore[attr-defined]
    assert (tmp_path / "runs" / "digits" / "metrics.jsonl").is_file()


def test_the_page_says_what_is_there() -> None:
    text = text_of(PAGE)
    field = TrainingSettings.model_fields["precision"]
    assert field.default == "auto" and all(f"`{choice}`" in text for choice in get_args(field.annotation))
    assert f"{CLEARLY_FASTER:g} times as fast" in text and "less than a minute" in text and WORTH_MEASURING == 60
    assert f"up to {SMALL_BYTES // 2**30} GiB" in text
