"""The Python of the README and of docs/deploy.md runs as it stands, and its tables are those of the committed results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from documents import ROOT, blocks, run, text_of


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # after a few steps on noise the logits may be in the thousands, and ONNX Runtime is exact to seven digits
    torch.manual_seed(0)
    examples = blocks("README.md", "python")
    assert len(examples) == 3
    lacking = any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnxscript"))
    run([block for block in examples if not lacking or "flowprune[onnx]" not in block], "README.md")
    assert (tmp_path / "small.fp").is_file()
    if not lacking:  # here, since the first export of a process takes many seconds
        run(blocks("docs/deploy.md", "python"), "docs/deploy.md")


def test_it_is_short_and_shows_six_rows() -> None:
    text = text_of("README.md")
    assert len(text.splitlines()) < 170
    table = text.partition("<!-- results:begin -->")[2].partition("<!-- results:end -->")[0]
    assert len(table.strip().splitlines()) == 2 + 6


def test_every_public_name_is_there_and_few() -> None:
    import tomllib

    import flowprune

    assert len(flowprune.__all__) <= 40 and "FlowpruneWarning" in flowprune.__all__
    assert all(getattr(flowprune, name) is not None for name in flowprune.__all__)
    with pytest.raises(AttributeError, match="no attribute"):
        flowprune.nonsense  # noqa: B018
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert pyproject["project"]["version"] == flowprune.__version__
