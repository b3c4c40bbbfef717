"""``explain`` says in words what the engine found."""

from __future__ import annotations

import pytest
import torch
from torture_networks import IMAGE, TORTURE

import flowprune as fp
from flowprune.cli import main


def test_a_resnet_s_stream_and_blocks_are_explained() -> None:
    found = fp.explain(fp.models.create("resnet20"), torch.randn(1, 3, 32, 32))
    by_name = {group.name: group for group in found.groups}
    assert by_name["layer2.1.conv1"].made_by == ("layer2.1.conv1",)
    assert by_name["layer2.1.conv1"].read_by == ("layer2.1.conv2",)
    assert by_name["layer2.1.conv1"].normalized_by == ("layer2.1.bn1",)
    assert "layer1.2.conv2" in by_name["conv1"].made_by and "linear" in by_name["conv1"].read_by
    assert found.frozen == {"linear.weight": "it is an output of the model"}
    text = str(found)
    assert "conv1: 16 channels, made by conv1, layer1.0.conv2" in text and "and 4 more" in text
    assert "frozen: linear.weight: it is an output of the model" in text


def test_rows_that_must_stay_equally_long_are_named() -> None:
    found = fp.explain(TORTURE["chunk, two branches, cat"](), torch.randn(1, *IMAGE))
    by_name = {group.name: group for group in found.groups}
    assert by_name["stem.0"].in_step_with == ("stem.0#2",)
    assert "in step with stem.0#2" in str(by_name["stem.0"])


def test_the_command_prints_the_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "resnet8", "--input", "3x32x32"]) == 0
    assert "layer1.0.conv1: 16 channels" in capsys.readouterr().out
    assert main(["explain", "resnet9", "--input", "3x32x32"]) == 2
    assert "did you mean" in capsys.readouterr().err
