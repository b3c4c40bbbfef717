"""What ``import flowprune as fp`` gives: few names, each with an example in its docstring that runs as it stands."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import warnings
from pathlib import Path

import pytest
import torch

import flowprune as fp

CALLABLES = [name for name in fp.__all__ if not inspect.ismodule(getattr(fp, name))]
NEEDS = {"export": ("onnxruntime", "onnxscript")}


@pytest.mark.parametrize("name", CALLABLES)
def test_the_example_of_every_public_name_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for library in NEEDS.get(name, ()):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"needs {library}")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    examples = doctest.DocTestFinder(exclude_empty=True).find(getattr(fp, name), name, globs={})
    assert [example for example in examples if example.name == name], f"fp.{name} shows no example"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    with warnings.catch_warnings():
        for example in examples:
            runner.run(example)
    assert not runner.failures, capsys.readouterr().out


def test_the_names_are_few_and_all_are_there() -> None:
    assert len(fp.__all__) <= 40 and fp.__all__ == sorted(fp.__all__, key=lambda name: (name.lower() == name, name))
    assert {"FlowpruneWarning", "TrainingSettings", "list_methods"} <= set(fp.__all__)
    assert set(fp.__all__) <= set(dir(fp))
