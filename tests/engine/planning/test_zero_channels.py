"""What a mask has left of no filter or no reader is cut by ``threshold``, and the outputs stay what they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import IMAGE, NETWORKS, SmallNetwork
from thoroughness import times
from torch import nn

import flowprune as fp
from flowprune.engine.planning import CoupledModel
from flowprune.engine.steps import lineage_of

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """A stream with two blocks, one of them grouped, a transposed convolution and a hidden layer; with norms and without."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.conv2, self.bn2 = nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8)
        self.plain1, self.plain2 = nn.Conv2d(8, 10, 1), nn.Conv2d(10, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.hidden, self.head = nn.Linear(6, 9), nn.Linear(9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.bn2(self.conv2(self.grouped(self.bn1(self.conv1(x)).relu()).relu()))).relu()
        x = x + self.plain2(self.plain1(x).sigmoid())
        x = self.up(x).relu().mean((2, 3))
        out: torch.Tensor = self.head(self.hidden(x).tanh())
        return out


def network() -> Network:
    torch.manual_seed(3)
    model = Network()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.3, 1.2) if "running_var" in name else tensor.normal_(0, 0.4)
    return model.eval()


def cut_equals(model: nn.Module, x: torch.Tensor = X) -> fp.Plan:
    made = fp.plan(model, x, threshold=1e-6)
    expected, found = model(x).detach(), fp.prune(model, made)(x).detach()
    assert float((expected - found).abs().max()) <= 1e-5 * float(expected.abs().max())
    return made


def test_filters_of_zeros_leave_with_norms_or_without_and_their_biases_are_folded() -> None:
    model = network()
    with torch.no_grad():
        for name in ("weight", "bias"):  # a channel of the stream: all that makes it is zero
            for module in (model.norm, model.bn2, model.plain2, model.stem, model.conv2):
                module.get_parameter(name)[2] = 0
        for parameter in (model.conv1.weight, model.conv1.bias, model.bn1.weight, model.bn1.bias):
            parameter[[1, 5, 9]] = 0  # the same place of every group, or none could lose one
        model.grouped.weight[[0, 4, 8, 3, 7, 11]] = 0  # without a norm, their biases go on
        model.plain1.weight[4] = 0
        model.up.weight[:, 5] = 0
        model.hidden.weight[7] = 0
    made = cut_equals(model)
    removed = {name: own.get(1 if name == "up.weight" else 0) for name, own in made.removed.items() if "weight" in name}
    assert removed["stem.weight"] == removed["conv2.weight"] == removed["plain2.weight"] == (2,)
    assert removed["conv1.weight"] == (1, 5, 9) and removed["grouped.weight"] == (0, 3, 4, 7, 8, 11)
    assert (removed["plain1.weight"], removed["up.weight"], removed["hidden.weight"]) == ((4,), (5,), (7,))
    assert made.folds and not made.kept_alive


def test_channels_that_nothing_reads_leave_although_they_are_alive() -> None:
    model = network()
    with torch.no_grad():
        model.grouped.weight[:, 2] = 0  # one channel of every group
        model.plain2.weight[:, [3, 6]] = 0
        model.head.weight[:, 4] = 0
        model.up.weight[1] = 0  # one of the stream's readers alone: it stays
    made = cut_equals(model)
    removed = {name: own[0] for name, own in made.removed.items() if 0 in own}
    assert removed["conv1.weight"] == (2, 6, 10) and removed["plain1.weight"] == (3, 6)
    assert removed["hidden.weight"] == (4,) and "stem.weight" not in removed
    with torch.no_grad():  # now all that read channel 1 of the stream
        model.conv1.weight[:, 1] = 0
        model.plain1.weight[:, 1] = 0
    assert cut_equals(model).removed["stem.weight"][0] == (1,)


def test_what_is_unread_by_layers_but_mixed_with_others_stays() -> None:
    class Normalized(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(4, 8), norm, nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.last(self.norm(self.first(x)))
            return out

    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.sum(1, keepdim=True)

    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    for norm, leaves in ((nn.LayerNorm(8), False), (Gate(), False), (nn.GELU(), True)):
        torch.manual_seed(0)
        model = Normalized(norm).eval()
        with torch.no_grad():
            model.last.weight[:, 2:5] = 0
        with pytest.warns(fp.FlowpruneWarning) if not leaves else torch.no_grad():
            made = cut_equals(model, x)
        assert made.is_empty != leaves


def test_a_channel_that_reaches_others_without_weights_stays() -> None:
    """Added to all channels, or multiplied with them, by a broadcast or out of place: its readers are not only the layers."""

    class Reaching(nn.Module):
        def __init__(self, way: Callable[[torch.Tensor], torch.Tensor]) -> None:
            super().__init__()
            self.first, self.way, self.last = nn.Conv2d(3, 8, 1), way, nn.Conv2d(8, 4, 1)
            self.matrix = matrix

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.last(self.way(self.first(x)))
            return out

    matrix = nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))

    def gram(h: torch.Tensor) -> torch.Tensor:
        """Every channel comes out again, and with a part of all others."""
        rows = h.flatten(2)
        return ((rows @ rows.transpose(1, 2) / rows.shape[2]) @ rows).view_as(h)

    ways: tuple[tuple[Callable[[torch.Tensor], torch.Tensor], bool], ...] = (
        (lambda h: h + h[:, :1], False),
        (lambda h: h * h.select(1, 0).unsqueeze(1), False),
        (lambda h: h * (1 + float(h[:, 0].detach().mean())), False),
        (lambda h: h + h.flip(1), False),
        (gram, False),
        (lambda h: h + gram(h), False),
        (lambda h: (h.unsqueeze(1) * h.unsqueeze(2)).sum(2), False),
        (lambda h: h + torch.einsum("bchw,oc->bohw", h, matrix), False),
        (lambda h: h * h.sigmoid(), True),
        (lambda h: h * h.mean((2, 3), keepdim=True).sigmoid(), True),
    )
    for way, leaves in ways:
        for silent in ("first", "last"):
            torch.manual_seed(0)
            model = Reaching(way).eval()
            with torch.no_grad():
                rows = getattr(model, silent).weight.movedim(0 if silent == "first" else 1, 0)
                rows[[0, 2, 5]] = 0
            with pytest.warns(fp.FlowpruneWarning) if not leaves else torch.no_grad():
                assert cut_equals(model).is_empty != leaves


def test_a_network_whose_channels_no_layer_reads_is_proved_too_where_none_is_dead() -> None:
    """There is no dead filter whose constant would be looked for, and still it must be seen that the norm mixes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        model[3].weight[:, 1::4] = 0
    with pytest.warns(fp.FlowpruneWarning, match="removes nothing"):
        assert cut_equals(model).is_empty


def test_a_mask_of_whole_filters_and_channels_is_a_smaller_network() -> None:
    """Weight, bias, gamma and beta of filters, and all that reads a channel: ``fp.mask``, then ``threshold``; the masks follow."""
    model = network()
    filters = {"conv1": [0, 4, 8], "bn1": [0, 4, 8], "hidden": [1, 2]}
    masks = {}
    for name, chosen in filters.items():
        for kind in ("weight", "bias"):
            masks[f"{name}.{kind}"] = torch.ones_like(model.get_parameter(f"{name}.{kind}"), dtype=torch.bool)
            masks[f"{name}.{kind}"][chosen] = False
    masks["plain2.weight"] = torch.ones_like(model.plain2.weight, dtype=torch.bool)
    masks["plain2.weight"][:, 6] = False
    sparse = fp.mask(model, X, mask=masks)
    made = cut_equals(sparse)
    small = fp.prune(sparse, made)
    assert (small.conv1.out_channels, small.hidden.out_features, small.plain1.out_channels) == (9, 7, 9)
    dense, found = fp.measure(sparse, X), fp.measure(small, X)
    assert found.macs < dense.macs and found.params < dense.params
    assert all(bool(mask.all()) for mask in lineage_of(small).masks.values())  # nothing is left to hold


@settings(max_examples=times(6, 40), deadline=None, derandomize=True, database=None)
@given(model=NETWORKS, seed=st.integers(0, 999))
def test_any_network_with_zeros_in_any_places_computes_the_same_after_the_cut(model: SmallNetwork, seed: int) -> None:
    torch.manual_seed(seed)
    model.eval()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
        for group in CoupledModel.of(model, torch.zeros(IMAGE)).coupling.groups:
            chosen = torch.rand(group.channels) < 0.3
            role = "input" if torch.rand(()) < 0.5 else "output"
            for member in group.members:
                if member.role == role and torch.rand(()) < 0.9 and member.name in dict(model.named_parameters()):
                    rows = torch.from_numpy(member.indices)[chosen].reshape(-1)
                    model.get_parameter(member.name).movedim(member.dimension, 0)[rows] = 0
    x = torch.randn(2, *IMAGE[1:])
    made = fp.plan(model, x, threshold=1e-9, fold_tolerance=0.0)
    expected, found = model(x).detach(), fp.prune(model, made)(x).detach()
    assert float((expected - found).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
