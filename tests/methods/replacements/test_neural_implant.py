"""HAP's implants and its three-way split: the authors' numbers, the step mechanism, export, and what has no implants."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixtures import double, fixture
from torch import nn

import flowprune as fp
from flowprune.errors import FlowpruneError, ModelError
from flowprune.methods.replacements import restore
from flowprune.methods.replacements.implant_split import three_way_split
from flowprune.methods.replacements.neural_implant import NeuralImplant

METHOD = NeuralImplant()


def test_outputs_are_those_of_the_authors_code() -> None:
    found = fixture("HAP-neural-implant-forward")
    given, wanted = found["inputs"], found["outputs"]
    reads, stays = given["in_indices"], wanted["output_order"]
    layer = nn.Conv2d(len(reads), len(stays), 3, padding=1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(double(given["weight"])[stays][:, reads])
    implants = [stays.index(number) for number in given["implant"]]
    x = double(given["x"])
    x = x if x.shape[1] == len(reads) else x[:, reads]
    new = METHOD.replace(layer, implants=implants)
    torch.testing.assert_close(new(x), double(wanted["y_at_init"]), rtol=0, atol=1e-10)
    with torch.no_grad():
        new.implant.weight.copy_(double(given["implant_weight"]))
    torch.testing.assert_close(new(x), double(wanted["y_with_implant_weight"]), rtol=0, atol=1e-10)
    fast = METHOD.replace(layer, implants=implants, start="centre")
    torch.testing.assert_close(fast(x), double(wanted["y_fast_variant"]), rtol=0, atol=1e-10)


def test_the_split_is_that_of_the_authors_code() -> None:
    found = fixture("HAP-neural-implant-ratio50-ni20")
    scores = {name: double(values) for name, values in found["outputs"]["sensitivity"].items()}
    split = three_way_split(scores, found["inputs"]["ratio"], implants=found["inputs"]["ni_ratio"])
    for name, wanted in found["outputs"]["split"].items():
        assert split[name] == (wanted["kept"], wanted["implant"], wanted["removed"])


def test_a_layer_keeps_its_best_where_the_authors_code_keeps_number_0() -> None:
    split = three_way_split({"weak": torch.tensor([1.0, 3.0, 2.0]), "strong": torch.arange(10.0, 17.0)}, 0.4)
    assert split["weak"].full == [1]
    assert len(three_way_split({"a": torch.arange(10.0)}, 1.0, cap=0.8)["a"].full) == 2
    with pytest.raises(FlowpruneError, match="is no share"):
        three_way_split({"a": torch.ones(2)}, 1.5)


@pytest.mark.parametrize("stride", [1, 2])
def test_restored_saved_and_loaded_it_computes_the_same(stride: int, tmp_path: Path) -> None:
    torch.manual_seed(0)

    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 6, 3, stride, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))

    dense, x = net(), torch.randn(2, 3, 7, 7)
    dense(x)
    new = fp.replace(dense, x, replacement="neural_implant", names=["0"], implants=[0, 4], start="centre")
    assert fp.measure(new, x).macs < fp.measure(dense, x).macs
    torch.testing.assert_close(restore(new, replacement="neural_implant")(x), new(x))
    fp.save(new, tmp_path / "implanted.fp")
    other = net()
    other(x)
    assert torch.equal(fp.load(tmp_path / "implanted.fp", model=other)(x), new(x))


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.Linear(4, 4), "only a Conv2d of one group"),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), "only a Conv2d of one group"),
        (nn.Conv2d(4, 4, 1), "1x1 already"),
        (nn.Conv2d(4, 4, 2), "no middle tap"),
        (nn.Conv2d(4, 4, 3), "other places"),
    ],
)
def test_what_has_no_implants_says_why(layer: nn.Module, said: str) -> None:
    assert not METHOD.matches(layer)
    with pytest.raises(ModelError, match=said):
        METHOD.replace(layer, implants=[0])


def test_implants_are_some_filters() -> None:
    for wrong in ([], [0, 1, 2, 3], [4], [-1]):
        with pytest.raises(FlowpruneError, match="are not some of 4 filters"):
            METHOD.replace(nn.Conv2d(3, 4, 3, padding=1), implants=wrong)
