"""``mask``, ``replace``, ``quantize``: one after the other on artifacts, and what they refuse in one line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flowprune.artifacts import load, read_header, save
from flowprune.cli import main
from flowprune.engine.steps import lineage_of
from flowprune.methods.codecs import measure
from flowprune.methods.replacements import REGISTRY, LinearExpansion, replace
from flowprune.models import create

Finished = subprocess.CompletedProcess[str]
NETWORK = ("resnet8", "--model-option", "width=4", "--input", "3x16x16")


def test_a_network_is_masked_and_packed_by_the_command(flowprune: Callable[..., Finished], tmp_path: Path) -> None:
    masked = flowprune("mask", *NETWORK, "--mask", "n_m", "--keep", "50%", "--out", "sparse.fp")
    assert masked.returncode == 0 and masked.stdout.startswith("n_m keeps 2,436 of 4,876 weights (49.96 %)"), masked
    asked = ("--quantizer", "uq", "--codec", "sparse_huffman", "--bytes", "0.4", "--out", "packed.fp", "--json")
    said = json.loads(flowprune("quantize", "sparse.fp", *asked).stdout)
    before, now = said["bytes"]
    assert now <= 0.4 * before and said["options"]["values"] > 2
    packed = load(tmp_path / "work" / "packed.fp")
    assert measure(packed, torch.zeros(1, 3, 16, 16)).stored_bytes == now
    masks = lineage_of(packed).masks
    assert masks and all(
        bool((parameter[~masks[name]] == 0).all()) for name, parameter in packed.named_parameters() if name in masks
    )


def test_modules_are_replaced_and_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide, plain = tmp_path / "wide.fp", tmp_path / "plain.fp"
    options = ("--module", "linear", "--replacement-option", "expansion=2")
    assert main(["replace", *NETWORK, *options, "--out", str(wide)]) == 0
    assert "modules replaced: 1; 5,006 parameters before" in capsys.readouterr().out
    assert main(["replace", str(wide), "--restore", "--out", str(plain)]) == 0
    assert [step.kind for step in read_header(wide).steps] == ["replace"] and not read_header(plain).steps
    images = torch.linspace(-1, 1, 768).view(1, 3, 16, 16)
    torch.testing.assert_close(load(plain).eval()(images), load(wide).eval()(images), rtol=1e-4, atol=1e-5)


def test_fine_tuning_holds_the_mask(tmp_path: Path) -> None:
    digits = ("vgg6", "--model-option", "width=4", "--model-option", "in_channels=1", "--data", "digits")
    sparse, tuned = tmp_path / "sparse.fp", tmp_path / "tuned.fp"
    assert main(["mask", *digits, "--keep", "0.5", "--out", str(sparse)]) == 0
    training = ("--data", "digits", "--data-option", "subset=64", "--epochs", "1")
    assert main(["finetune", str(sparse), *training, "--out", str(tuned)]) == 0
    before, after = load(sparse).state_dict(), load(tuned)
    masks = lineage_of(after).masks
    assert len(masks) == 6
    for name, mask in masks.items():
        weight = after.state_dict()[name]
        assert torch.equal(weight != 0, mask) and not torch.equal(weight, before[name])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mask", *NETWORK, "--mask", "hetcon", "--out", "a.fp"), "did you mean 'hetconv'?"),
        (("mask", *NETWORK, "--out", "a.fp"), "needs a budget"),
        (("mask", *NETWORK, "--keep", "120%", "--out", "a.fp"), "is not a budget"),
        (("mask", *NETWORK, "--keep", "0.5", "--mask", "hetconv", "--out", "a.fp"), "the nearest to that"),
        (("mask", *NETWORK, "--keep", "0.5", "--mask-option", "scpoe=local", "--out", "a.fp"), "did you mean 'scope'?"),
        (("mask", *NETWORK, "--keep", "0.5", "--ignore", "layer9", "--out", "a.fp"), "matches none of the weights"),
        (("mask", *NETWORK, "--keep", "0.5", "--score", "magnitud", "--out", "a.fp"), "did you mean 'magnitude'?"),
        (("mask", *NETWORK, "--keep", "0.5", "--allocator", "rate_distortion", "--out", "a.fp"), "--data"),
        (("replace", *NETWORK, "--module", "layer9", "--out", "a.fp"), "no module 'layer9'"),
        (("replace", *NETWORK, "--replacement-option", "expansion=0.5", "--out", "a.fp"), "expansion=0.5"),
        (("replace", *NETWORK, "--replacement-option", "expension=2", "--out", "a.fp"), "expension"),
        (("replace", *NETWORK, "--restore", "--out", "a.fp"), "nothing can be restored"),
        (("quantize", *NETWORK, "--out", "a.fp"), "needs values="),
        (("quantize", *NETWORK, "--bytes", "1B", "--quantizer", "uq", "--out", "a.fp"), "the fewest there are"),
        (("quantize", *NETWORK, "--bytes", "lots", "--out", "a.fp"), "is not a budget"),
        (("quantize", *NETWORK, "--quantizer-option", "values=x", "--out", "a.fp"), "values"),
        (("quantize", *NETWORK, "--codec", "huffmann", "--out", "a.fp"), "did you mean 'huffman'?"),
        (("quantize", *NETWORK, "--codec-option", "word=7", "--quantizer-option", "values=4", "--out", "a.fp"), "word=7"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert not printed.out and len(printed.err.splitlines()) == 1 and said in printed.err
    assert not list(tmp_path.iterdir())


class Foreign(LinearExpansion):
    """A replacement of a third party."""


def test_an_artifact_asks_for_a_third_partys_method_only_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    list(REGISTRY)
    monkeypatch.setitem(REGISTRY._items, "foreign", Foreign)
    images = torch.zeros(1, 3, 16, 16)
    save(replace(create("resnet8", width=4), images, replacement="foreign", names=["linear"]), tmp_path / "a.fp")
    asked = ["measure", str(tmp_path / "a.fp"), "--input", "3x16x16", "--json"]
    assert main(asked) == 2 and "--allow foreign" in capsys.readouterr().err
    assert main([*asked, "--allow", "foreign"]) == 0
    assert main(asked) == 2  # it was for that one command
