"""The example of docs/compress.md runs as it stands, and what the page says of choices is what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import blocks, run, text_of

from flowprune.studies.compression.choosing import OF_THE_TIME, SHARES
from flowprune.studies.compression.compressing import CRITERIA, ROUNDS
from flowprune.studies.compression.smallest_passing import FIRST
from flowprune.studies.compression.validation_images import FEW

PAGE = "docs/compress.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    left = run(blocks(PAGE, "python"), PAGE)
    assert left["done"].drop.images == 400 and (tmp_path / "small.fp").is_file()  # type: ignore[attr-defined]


def test_the_page_says_what_is_chosen_from() -> None:
    text = text_of(PAGE)
    assert all(f"`{name}`" in text for name in CRITERIA) and ROUNDS == (1, 3) and "(1 or 3; `--rounds`)" in text
    assert SHARES == (0.25, 0.5, 0.75) and f"up to {FEW:,} of the validation images" in text
    assert FIRST == 0.5 and OF_THE_TIME == 0.25
