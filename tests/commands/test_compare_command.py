"""``flowprune compare``: bad input is one line, a non-zero exit, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flowprune.cli import main

SMALL = """
network: {name: resnet8, options: {in_channels: 1, width: 4}}
data: {name: digits}
training: {epochs: 10000}
methods: [l1]
pruning: {budgets: [{macs: 0.5}]}
finetuning: {epochs: 2}
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("methods=[l1, nuclear_nrm]", "did you mean 'nuclear_norm'?"),
        ("methods.0={name: l1, options: {normalise: max}}", "did you mean 'normalize'?"),
        ("methods.0={importance: hessian, options: {probes: 2.5}}", "probes=2.5 is not a whole number"),
        ("methods.0={importance: random, options: {seed: abc}}", "seed='abc' is not a whole number"),
        ("methods.0={importance: nuclear_norm, options: {images: 1.5}}", "images=1.5 is not a whole number"),
        ("methods.0={importance: nuclear_norm, options: {positions: true}}", "positions=True is not a whole number"),
        ("methods.0={importance: nuclear_norm, options: {dtype: float16}}", "float32 or float64, not float16"),
        ("methods.0={importance: nuclear_norm, options: {memory: lots}}", "memory='lots' is not a positive number"),
        ("methods.0={importance: nuclear_norm, options: {normalize: 3}}", "unknown normalization 3; known: l1"),
        ("pruning.budgets.0={macs: 1K}", "cannot be met"),
        ("pruning.budgets.0={macs: 1.5}", "not a budget"),
        ("network.options.in_channels=3", "in_channels"),
        ("data.name=digit", "did you mean 'digits'?"),
        ("seeds=[]", "seeds"),
    ],
)
def test_what_cannot_work_is_found_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(SMALL)
    assert main(["compare", str(recipe), "--set", change, "--out", str(tmp_path / "out")]) == 2
    printed, line = capsys.readouterr()
    assert printed == "" and line.startswith("error: ") and line.count("\n") == 1 and said in line
    assert not (tmp_path / "out").exists()


def test_a_missing_recipe_is_one_line_through_a_process_of_its_own(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "absent.yaml" in refused("compare", tmp_path / "absent.yaml")
