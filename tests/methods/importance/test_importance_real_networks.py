"""Nuclear norms of pretrained networks on real images against float64 singular values: errors, ranks, what would leave."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_residual_network import groups_of
from thoroughness import times

from flowprune.engine.tracing import trace
from flowprune.methods.importance import NuclearNorm
from flowprune.methods.importance._maps.map_stages import maps_at
from flowprune.methods.importance._maps.map_watch import evaluation_shadow, watch_maps
from flowprune.models import create
from flowprune.training import load_data

DATA = Path(os.environ["FLOWPRUNE_DATA"]) if os.environ.get("FLOWPRUNE_DATA") else None
WEIGHTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(DATA is None, reason="FLOWPRUNE_DATA does not point at CIFAR-10 and the pretrained weights"),
]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's: of the ranks, which are all different here but for channels that are exactly dead."""
    return float(np.corrcoef(a.argsort(kind="stable").argsort(), b.argsort(kind="stable").argsort())[0, 1])


@pytest.mark.parametrize("network", times(quick=["resnet20"], thorough=["resnet20", "resnet56"]))
@pytest.mark.parametrize("reading", ["stacked", "mean"])
def test_scores_of_pretrained_networks_are_those_of_float64_singular_values(network, reading):
    assert DATA is not None
    model = create(network, weights=DATA / "weights" / WEIGHTS[network])
    data = load_data("cifar10", data_dir=DATA)
    # More images than the positions of two of the three stages, fewer than those of the first.
    batches = [x for x, _ in data.batches("train", batch_size=100, count=3, seed=0)]
    groups = list(groups_of(model, batches[0][:1]).values())
    # Every third group, or fewer, is enough for the reference, whose singular values take nearly all of this test's time.
    picked = groups[:: 3 if network == "resnet20" else 9]
    maps: dict = {}
    positions = {feature.position for group in picked for feature in maps_at(group, "activated")}
    graph, twin = trace(model, batches[0][:1]), evaluation_shadow(model)
    for x in batches:
        watch_maps(twin, graph, x, positions, lambda at, tensor: maps.setdefault(at, []).append(tensor.clone()))

    def exact(feature) -> torch.Tensor:
        tensor = torch.cat(maps[feature.position]).double()[:, feature.indices[:, 0]]
        if reading == "mean":
            return torch.linalg.svdvals(tensor).sum(2).mean(0)
        return torch.linalg.svdvals(tensor.flatten(2).transpose(0, 1)).sum(1)

    expected = [torch.stack([exact(f) for f in maps_at(group, "activated")]).mean(0).numpy() for group in picked]
    options = {"reading": reading, "normalize": "none"}
    found = [s.numpy() for s in NuclearNorm(batches, **options)(model, batches[0][:1], picked)]
    single = [s.numpy() for s in NuclearNorm(batches, dtype=torch.float32, **options)(model, batches[0][:1], picked)]
    for scores in (found, single):
        for got, want in zip(scores, expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-9 * max(want.max(), 1e-30))
        all_got, all_want = np.concatenate(scores), np.concatenate(expected)
        assert rank_correlation(all_got, all_want) >= 0.9999
        leaving = len(all_want) * 4 // 10
        removed, reference = (set(s.argsort(kind="stable")[:leaving].tolist()) for s in (all_got, all_want))
        limit = np.sort(all_want)[leaving]
        assert all(abs(all_want[i] - limit) <= 1e-4 * limit for i in removed ^ reference)
