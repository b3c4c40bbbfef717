"""Regular graphs and SSC-style periods: against the authors' masks, as special convolutions, and on real networks."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
import torchvision
from fixtures import fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flowprune as fp
from flowprune.errors import BudgetError, FlowpruneError
from flowprune.methods.importance.weight_scores import WeightMagnitude
from flowprune.methods.masks import REGISTRY, density
from flowprune.methods.masks.regular_graphs import mean_path, random_regular, ring, with_shorter_paths
from flowprune.methods.masks.rgp import RGP, block_sizes, connections
from flowprune.methods.masks.ssc import SSC


def test_the_mask_of_a_graph_is_the_authors() -> None:
    case = fixture("rgp-mask")
    adjacency = np.array(case["inputs"]["A"]) > 0
    assert np.array_equal(adjacency, ring(16, 4))
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    for theirs in case["outputs"]["cases"]:
        filters, channels = theirs["F"], theirs["C"]
        assert block_sizes(channels, 16).tolist() == theirs["block_sizes_in"]
        assert block_sizes(filters, 16).tolist() == theirs["block_sizes_out"]
        mask = RGP(nodes=16, degree=4, graph="ring", first_dense=False).select(
            {"w": torch.empty(filters, channels, 1, 1)}
        )
        assert mask["w"].int()[:, :, 0, 0].tolist() == np.array(theirs["mask"]).astype(int).tolist()
        assert density(mask) == pytest.approx(theirs["density"], abs=1e-12)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]
    weight, x = torch.tensor(case["inputs"]["forward"]["W"]), torch.tensor(case["inputs"]["forward"]["x"])
    kept = torch.from_numpy(connections(adjacency, *weight.shape[:2]))[:, :, None, None]
    y = nn.functional.conv2d(x.unsqueeze(0) if x.ndim == 3 else x, weight * kept, padding=1)
    theirs_y = torch.tensor(case["outputs"]["forward_y"])
    torch.testing.assert_close(y.reshape(theirs_y.shape), theirs_y, atol=1e-5, rtol=0)


def test_the_search_shortens_paths_where_the_original_does_not_move() -> None:
    case = fixture("rgp-graph-search")
    for asked, theirs in zip(case["inputs"]["cases"], case["outputs"]["cases"], strict=True):
        start = np.array(asked["start"]) > 0
        assert mean_path(start) == pytest.approx(theirs["aspl_start"], abs=1e-12)
        if asked["direction"] != "min" or asked["interval_up"] != 0.02:
            continue
        found = with_shorter_paths(start, seed=7)
        assert (found.sum(0) == asked["degree"]).all() and np.array_equal(found, found.T) and not found.diagonal().any()
        assert mean_path(found) <= mean_path(start) + 1e-12
        assert nx.is_connected(nx.from_numpy_array(found))
        if asked["start_kind"] == "ring" and asked["degree"] == 4:
            assert theirs["aspl_result"] == theirs["aspl_start"]  # the fault: no gain above 0.02 is taken
            assert mean_path(found) < theirs["aspl_result"] - 0.3


@settings(max_examples=10, deadline=None)
@given(st.integers(4, 11), st.integers(2, 5), st.integers(0, 99))
def test_a_search_keeps_degrees_and_connection_and_never_lengthens_paths(nodes: int, degree: int, seed: int) -> None:
    degree = min(degree, nodes - 1)
    if nodes * degree % 2:
        degree -= 1
    start = random_regular(nodes, degree, seed)
    assert mean_path(start) == pytest.approx(nx.average_shortest_path_length(nx.from_numpy_array(start)))
    found = with_shorter_paths(start, seed)
    assert (found.sum(0) == degree).all() and mean_path(found) <= mean_path(start) + 1e-12
    assert np.array_equal(found, with_shorter_paths(start, seed))
    mask = torch.from_numpy(connections(found, 2 * nodes, 3 * nodes))
    assert float(mask.float().mean()) == pytest.approx(degree / nodes)


def test_searched_graphs_have_shorter_paths_than_random_ones_and_these_than_rings() -> None:
    lengths = [mean_path(RGP(nodes=24, degree=4, graph=graph).adjacency) for graph in ("searched", "random", "ring")]
    assert lengths[0] < lengths[1] < lengths[2]


def test_another_density_is_refused_with_the_nearest_degree() -> None:
    weights = {"stem": torch.empty(16, 3, 3, 3), "inner": torch.empty(16, 16, 3, 3)}
    pattern = RGP(nodes=16, degree=4, graph="random")
    own = density(pattern.select(weights))
    assert density(pattern.select(weights, keep=round(own, 3))) == own
    with pytest.raises(
        BudgetError, match=r"degree=4.*nearest to that is rgp with nodes=16, degree=[89], graph=\"ring\""
    ):
        pattern.select(weights, keep=0.6)
    with pytest.raises(BudgetError, match="nearest to that is ssc with group="):
        SSC().select(weights, keep=0.5)
    for options in ({"degree": 1}, {"nodes": 5, "degree": 3}, {"nodes": 8, "degree": 8}, {"graph": "tree"}):
        with pytest.raises(FlowpruneError, match=next(iter(reversed(options)))):
            REGISTRY["rgp"](**options)
    for options in ({"group": 3}, {"shift": 0.5}, {"spatial": "no"}, {"others": "no"}):  # type: ignore[assignment]
        with pytest.raises(FlowpruneError, match=next(iter(options))):
            REGISTRY["ssc"](**options)


def test_ssc_keeps_the_share_it_names_and_the_chessboards_halves() -> None:
    mask = SSC(group=8, first_dense=False).select({"w": torch.empty(16, 16, 3, 3)})["w"]
    assert density({"": mask}) == pytest.approx(15 / 72)
    assert (mask[0, 0] ^ mask[0, 4]).all() and mask[0, 0].sum() == 5  # the two halves are the whole kernel
    assert torch.equal(mask[1, 3], mask[0, 4])  # the pattern moves by one channel a filter


def test_ssc_is_a_grouped_and_a_depthwise_convolution_in_its_special_cases() -> None:
    grouped = nn.Conv2d(8, 8, 3, groups=4, bias=False).double()
    mask = SSC(group=4, shift=-1, spatial="whole", others="none", first_dense=False).select(
        {"w": torch.empty(8, 8, 3, 3)}
    )["w"]
    dense = torch.zeros(8, 8, 3, 3, dtype=torch.float64)
    for f in range(8):  # filter f reads the channels c = f mod 4: those of one group, numbered by turns
        reads = [c for c in range(8) if (c - f) % 4 == 0]
        assert mask[f].flatten(1).any(1).nonzero().flatten().tolist() == reads
        dense[f, reads] = grouped.weight[(f % 4) * 2 + f // 4].detach()
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    turned = torch.cat([x[:, [g, g + 4]] for g in range(4)], 1)
    ours = nn.functional.conv2d(x, dense * mask)
    order = [(f % 4) * 2 + f // 4 for f in range(8)]
    torch.testing.assert_close(ours, grouped(turned)[:, order])
    single = SSC(group=8, shift=-1, spatial="whole", others="none", first_dense=False).select(
        {"w": torch.empty(8, 8, 3, 3)}
    )
    assert torch.equal(single["w"].flatten(2).any(2), torch.eye(8, dtype=torch.bool))


def test_at_initialisation_and_on_trained_weights_and_in_other_layers() -> None:
    """Depthwise, pointwise and linear layers stay whole under a graph; a transformer's patches under both patterns run."""
    mobile = torchvision.models.mobilenet_v2(num_classes=5)
    scores = WeightMagnitude()(mobile)
    masks = RGP(nodes=16, degree=4, graph="ring").select(scores)
    for name, mask in masks.items():
        touched = mask.ndim == 4 and min(mask.shape[:2]) >= 16
        assert mask.all() != touched, name
    none = SSC(others="none").select(
        {"stem": torch.empty(8, 3, 3, 3), "a": torch.empty(16, 16, 3, 3), "d": torch.empty(16, 1, 3, 3)}
    )
    assert none["d"].all() and none["a"].flatten(1).any(1).all()
    model = fp.models.create("resnet20")
    for pattern in (SSC(), RGP(nodes=16, degree=4)):
        first = pattern.select(WeightMagnitude()(model))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-3)
        second = pattern.select(WeightMagnitude()(model))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert first["linear.weight"].all()
