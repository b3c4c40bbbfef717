"""Joint pruning and mixed precision: the authors' costs, the gradients of the mixture, the cut, and what is stored in the end."""

from __future__ import annotations

import math

import pytest
import torch
from fixtures import double, fixture
from torch import Tensor, nn

import flowprune as fp
from flowprune.engine.interfaces import Outcome
from flowprune.errors import FlowpruneError
from flowprune.methods.codecs.stored_model import stored_model
from flowprune.methods.quantizers._channelwise.min_max import mixed
from flowprune.methods.quantizers._channelwise.read_tensors import read_tensors
from flowprune.methods.regularizers.bit_search import BitSearch

IMAGE = torch.zeros(2, 1, 8, 8)


class AuthorsNet(nn.Module):
    """The network of the fixtures."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1, stride=2)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c2(self.c1(x).relu()).relu()
        return self.fc(x.mean((2, 3)))


def prepared(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = fp.models.create("resnet8", in_channels=1, width=4)
    for _ in range(3):
        model(torch.randn(16, 1, 8, 8))
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "bn" in name:
                one.add_(0.2 * torch.randn_like(one))
    model.eval()
    folded = fp.replace(model, IMAGE, replacement="folded_norms")
    images = torch.randn(4, 1, 8, 8)
    assert torch.allclose(folded(images), model(images), atol=1e-4)
    assert not any(isinstance(one, nn.BatchNorm2d) for one in folded.modules())
    return fp.replace(folded, IMAGE, replacement="pact", bits=8)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return prepared()


def decided(search: BitSearch, seed: int = 0) -> None:
    """Logits that decide something at every channel."""
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one in search.logits:
            one.add_(3 * torch.randn(one.shape, generator=numbers))


@pytest.mark.parametrize("case", ["init", "random", "onehot"])
def test_costs_are_those_of_the_authors(case: str) -> None:
    expected = fixture("PLiNIO-cost-paper-version")["outputs"]["cases"][case]
    torch.manual_seed(0)
    net, inputs = AuthorsNet(), torch.zeros(1, 3, 8, 8)

    def searched(cost: str) -> tuple[BitSearch, list[Tensor]]:
        search = BitSearch(net, inputs=inputs, cost=cost)
        thetas = {name: double(theta) for name, theta in expected["theta"].items()}
        thetas["fc"] = torch.cat([torch.zeros(1, 5, dtype=torch.float64), thetas["fc"]])  # no 0 bits at the output
        assert [(one.name, one.can_leave) for one in search.choices] == [("c1", True), ("c2", True), ("fc", False)]
        return search, [thetas[one.name] for one in search.choices]

    search, shares = searched("size")
    assert float(search._cost(shares).detach()) == pytest.approx(expected["size"], rel=1e-5)
    inside = expected["in_features_eff"]

    def by_layer(cost: str) -> dict[str, float]:
        search, shares = searched(cost)
        found = {}
        for layer in list(search.layers):
            search.layers = [layer]
            found[layer.name] = float(search._cost(shares).detach())
        return found

    # Theirs counts a linear layer's operations as if nothing had been pruned before it.
    operations = by_layer("bit_operations")
    operations["fc"] *= 6 / inside["fc"]
    assert operations == pytest.approx(expected["layer_macs"], rel=1e-5)
    if (
        case == "onehot"
    ):  # c1: 4 filters of 2 bits; c2: one gone, 3 of 4 bits, 2 of 8; fc: 2, 2 and 1 of 2, 4 and 8 bits
        cycles = {"c1": 27 * 64 * 4 / 2.5, "c2": 36 * 16 * (3 / 2.3 + 2 / 2.1), "fc": 5 * (2 / 2.5 + 2 / 2.3 + 1 / 2.1)}
        assert by_layer("latency") == pytest.approx(cycles)


def test_streams_share_a_choice_and_tensors_a_clip(network: nn.Module) -> None:
    search = BitSearch(network, inputs=IMAGE)
    choices = {layer.name: {part.choice for part in layer.filters} for layer in search.layers}
    assert choices["conv1"] == choices["layer1.0.conv2"] and choices["layer1.0.conv1"] != choices["conv1"]
    outputs = [search.choices[part] for part in choices["linear"]]
    assert [one.can_leave for one in outputs] == [False]
    tensors = read_tensors(fp.models.create("resnet20", width=4, shortcut="B"), torch.zeros(1, 3, 8, 8))
    assert tensors[0].signed and not any(one.signed for one in tensors[1:])
    assert ("layer2.0.conv1", "layer2.0.shortcut.0") in [one.layers for one in tensors]


def test_the_gradient_is_that_of_the_mixture(network: nn.Module) -> None:
    search = BitSearch(network, inputs=IMAGE, strength=0.3)
    decided(search)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    search.begin(fp.Training(optimizer, epochs=1, steps=2))
    layer = next(one for one in search.layers if one.name == "layer1.0.conv1")
    behind = search._behind["layer1.0.conv1.weight"].clone().requires_grad_()
    shares = layer.of_filters(search.shares())
    effective = mixed(behind, shares.detach(), (0, 2, 4, 8))
    assert torch.allclose(layer.weight, effective, atol=1e-6)
    images, targets = torch.randn(8, 1, 8, 8), torch.randint(0, 10, (8,))
    network.train()
    loss = nn.functional.cross_entropy(network(images), targets)
    optimizer.zero_grad()
    (loss + search.penalty(loss.detach())).backward()
    at_mixture = layer.weight.grad.clone()
    (by_hand,) = torch.autograd.grad((mixed(behind, shares.detach(), (0, 2, 4, 8)) * at_mixture).sum(), behind)
    search.after_backward()
    assert torch.allclose(layer.weight.grad, by_hand) and torch.equal(layer.weight, behind)
    cost_before = search._cost(search.shares()).detach()
    optimizer.step()
    search.after_step(optimizer, lambda: loss)
    assert not torch.equal(layer.weight, behind) and search._cost(search.shares()).detach() != cost_before
    search.close()
    assert torch.equal(layer.weight, search._behind["layer1.0.conv1.weight"])


def test_what_leaves_is_cut_without_a_trace_and_what_stays_takes_the_bits_that_were_reported(tmp_path) -> None:
    model = prepared(1)
    search = BitSearch(model, inputs=IMAGE)
    decided(search, 1)
    search.begin(fp.Training(torch.optim.SGD(model.parameters(), lr=0.01)))
    outcome = search.finish()
    images = torch.randn(16, 1, 8, 8)
    silent = model.eval()(images)
    reported = search.size_bits()
    search.close()
    assert outcome.leaves and outcome.bits
    plan = fp.plan(model, IMAGE, outcome=Outcome(leaves=outcome.leaves))
    small = fp.prune(model, plan)
    bits = {}
    for name, own in outcome.bits.items():
        gone = plan.removed.get(name, {}).get(0, ())
        bits[name] = [int(number) for filter_, number in enumerate(own) if filter_ not in gone]
    assert all(number > 0 for own in bits.values() for number in own)
    few = fp.quantize(small, IMAGE, quantizer="mixed_precision", codec="channel_bits", bits=bits)
    stored = stored_model(few)
    counted = sum(sum(own) * few.get_parameter(name)[0].numel() for name, own in bits.items())
    levels = {name: tensor.nbytes for name, tensor in stored.tensors.items() if name.startswith("code:levels:")}
    assert counted == reported and set(levels) == {f"code:levels:{name}" for name in bits}
    assert 0 <= 8 * sum(levels.values()) - reported < 8 * len(levels)  # each filled up to whole bytes
    plain = model.eval()(images)  # with zeros where there are 0 bits
    assert torch.allclose(small.eval()(images), plain, atol=1e-5) and not torch.allclose(silent, plain, atol=1e-5)
    fp.save(few, tmp_path / "few.fp")
    loaded = fp.load(tmp_path / "few.fp").eval()
    assert torch.equal(loaded(images), few.eval()(images))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inputs": None}, "give it example inputs"),
        ({"cost": "siez"}, "did you mean 'size'"),
        ({"precisions": [8, 4]}, "ascending"),
        ({"precisions": [0, 1]}, "no number of bits"),
        ({"strength": math.nan}, "strength=nan"),
        ({"cost": "latency", "table": "mpci"}, "there is no latency table 'mpci'"),
        ({"cost": "latency", "precisions": [0, 3, 8]}, "no number for 3 bits by 8 bits"),
    ],
)
def test_options_that_are_none_are_one_line(network: nn.Module, options, said: str) -> None:
    with pytest.raises(FlowpruneError) as raised:
        BitSearch(network, **{"inputs": IMAGE, **options})
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_norms_that_are_not_folded_are_named() -> None:
    with pytest.raises(FlowpruneError, match="fold the batch norm behind conv1 first"):
        BitSearch(fp.models.create("resnet8", in_channels=1, width=4), inputs=IMAGE)
