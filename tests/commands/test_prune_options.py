"""Options of ``flowprune prune``, as a person gives them: what is asked and reached is printed; what cannot be is one line."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flowprune import load, measure
from flowprune.artifacts import read_header, save
from flowprune.models import create

Finished = subprocess.CompletedProcess[str]
Flowprune = Callable[..., Finished]
Refused = Callable[..., str]
NETWORK = ("resnet8", "--model-option", "width=12", "--model-option", "in_channels=1", "--input", "1x16x16")
X = torch.zeros(1, 1, 16, 16)


def printed(done: Finished) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def small_model(tmp_path: Path) -> torch.nn.Module:
    return load(tmp_path / "work" / "small.fp")


def test_widths_are_rounded_and_both_numbers_printed(flowprune: Flowprune, tmp_path: Path) -> None:
    text = printed(flowprune("prune", *NETWORK, "--channels", 0.6, "--round-to", 4, "--out", "small.fp"))
    small = small_model(tmp_path)
    assert small.get_parameter("layer3.0.conv1.weight").shape[0] == 28
    assert "widths rounded to multiples of 4: 7 of 7 layers" in text
    assert "rounded: layer1.0.conv1: asked 7, reached 8" in text
    assert "asked: channels=0.6" in text


def test_an_allocator_shares_the_budget_out_on_images_or_without(flowprune: Flowprune, tmp_path: Path) -> None:
    text = printed(flowprune("prune", *NETWORK, "--macs", 0.5, "--allocator", "lamp", "--out", "small.fp"))
    assert "asked: macs=0.5 (global, L2, LAMP)" in text
    torch.manual_seed(0)
    save(create("resnet8", in_channels=1, width=8), tmp_path / "dense.fp")
    images = ("--data", "digits", "--data-option", "size=8", "--batches", 1, "--batch-size", 4)
    options = ("--macs", 0.5, "--allocator", "rate_distortion", "--allocator-option", "points=2")
    text = printed(flowprune("prune", tmp_path / "dense.fp", *images, *options, "--out", "rd.fp"))
    assert "(global, L2, RateDistortion)" in text
    small, dense = (
        measure(load(tmp_path / "work" / "rd.fp"), torch.zeros(1, 1, 8, 8)),
        create("resnet8", in_channels=1, width=8),
    )
    assert small.macs <= 0.5 * measure(dense, torch.zeros(1, 1, 8, 8)).macs


def test_shares_caps_and_frozen_dimensions_by_layer(flowprune: Flowprune, tmp_path: Path) -> None:
    text = printed(
        flowprune(
            *(
                "prune",
                *NETWORK,
                "--out",
                "small.fp",
                "--channels-of",
                "layer3.*.conv1=0.25",
                "--channels-of",
                "*conv1=0.5",
            ),
            *("--freeze", "layer1.0.conv1.weight=[0]", "--largest-cut-of", "layer2.0.conv1=0.25"),
        )
    )
    small = small_model(tmp_path)
    widths = {name: small.get_parameter(f"{name}.0.conv1.weight").shape[0] for name in ("layer1", "layer2", "layer3")}
    assert widths == {"layer1": 12, "layer2": 18, "layer3": 12}
    assert "frozen: layer1.0.conv1.weight: frozen, as asked" in text
    kept = printed(flowprune("explain", *NETWORK, "--freeze", "layer1.0.conv1.weight=0", "--ignore", "layer2"))
    assert "frozen: layer1.0.conv1.weight: frozen, as asked" in kept and "layer2.0.conv1.weight: ignored" in kept


def test_a_cut_in_steps_with_training_between(flowprune: Flowprune, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(create("resnet8", in_channels=1, width=8), tmp_path / "dense.fp")
    text = printed(
        flowprune(
            *(
                "prune",
                tmp_path / "dense.fp",
                "--macs",
                0.4,
                "--steps",
                2,
                "--data",
                "digits",
                "--data-option",
                "subset=96",
            ),
            *("--batch-size", 32, "--out", "small.fp"),
        )
    )
    dense, small = load(tmp_path / "dense.fp"), small_model(tmp_path)
    assert 0.99 * 0.4 * measure(dense, X).macs <= measure(small, X).macs <= 0.4 * measure(dense, X).macs
    assert f"{measure(dense, X).macs:,} -> {measure(small, X).macs:,}" in text and "asked: macs=0.4 in 2 steps" in text
    assert len(read_header(tmp_path / "work" / "small.fp").plans) == 2
    assert not torch.equal(
        small.get_buffer("bn1.running_mean"), torch.zeros(small.get_buffer("bn1.running_mean").shape)
    )


def test_a_budget_of_time_is_measured(flowprune: Flowprune) -> None:
    text = printed(flowprune("prune", *NETWORK, "--latency", "900s", "--out", "small.fp"))
    found = re.search(r"latency=900000ms measured: ([\d.]+) ms beside the dense model's ([\d.]+) ms", text)
    assert found is not None and 0 < float(found[1]) < 900_000


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--macs", 0.5, "--freeze", "layer1.0.conv1.wieght=[0]"), "did you mean 'layer1.0.conv1.weight'?"),
        (("--macs", 0.1, "--round-to", 12), "allow in multiples of 12 has"),
        (("--channels-of", "layr1=0.5"), "channels: 'layr1' matches no layer of the model; did you mean 'layer1'?"),
        (("--channels", 0.5, "--channels-of", "layer1=0.5"), "not both"),
        (("--latency", "1ns"), "cannot be met on this machine: 1e-06 ms were asked for"),
        (("--macs", 0.5, "--steps", 3), "needs a data set: name one with --data"),
    ],
)
def test_what_cannot_be_is_one_line(refused: Refused, options: tuple[object, ...], complaint: str) -> None:
    assert complaint in refused("prune", *NETWORK, "--out", "small.fp", *options)


def test_a_cut_that_takes_nothing_is_carried_out_and_said_in_one_line(flowprune: Flowprune, tmp_path: Path) -> None:
    (tmp_path / "work" / "stuck.py").write_text(
        "from torch import nn\n"
        "class Stuck(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)\n"
        "    def forward(self, x):\n"
        "        return self.last(self.first(x).cumsum(3))\n"
    )
    done = flowprune("prune", "stuck:Stuck", "--input", "3x4x4", "--channels", 0.5, "--out", "small.fp")
    assert "asked: channels=0.5" in printed(done)
    assert done.stderr.startswith(
        "warning: channels=0.5 removes nothing; what stays: first.weight: passes through aten.cumsum,"
    )
    assert done.stderr.count("\n") == 1
    refused = flowprune("prune", "stuck:Stuck", "--input", "3x4x4", "--macs", 0.5, "--out", "other.fp")
    assert refused.returncode == 2 and refused.stderr.startswith("error: macs=0.5 cannot be met")
    assert "what stays: first.weight: passes through aten.cumsum, which has no coupling rule" in refused.stderr
