"""The examples of docs/integrations.md run as they stand."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

import pytest
import torch
from documents import ROOT, blocks, run

import flowprune as fp

PAGE = "docs/integrations.md"


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec", "ignore:.*num_workers")
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = blocks(PAGE, "python")
    assert len(examples) == 5
    variables = run([examples[0], examples[2], examples[3]], PAGE)
    assert all(outcome.leaves for outcome in (*variables["callback"].outcomes, *variables["session"].outcomes))
    classifier, small, images = (variables[name] for name in ("classifier", "small", "images"))
    assert fp.measure(small, images[:2]).macs <= 0.5 * fp.measure(classifier.model, images[:2]).macs
    variables = run(examples[1:2], PAGE)
    model, small, example = (variables[name] for name in ("model", "small", "example"))
    assert fp.measure(small, example).macs <= 0.5 * fp.measure(model, example).macs
    flow = run(examples[4:], PAGE)["flow"]
    assert isinstance(flow, fp.FeatureFlow) and flow.coefficients is not None
    assert all(torch.isfinite(torch.tensor(coefficient)) for coefficient in flow.coefficients.values())


def test_the_command_has_options_that_exist() -> None:
    (command,) = blocks(PAGE, "sh")
    program, script, *options = shlex.split(command)
    assert program == "python"
    specification = importlib.util.spec_from_file_location("timm_train", ROOT / script)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.parser().parse_args(options).keep_macs == 0.5
