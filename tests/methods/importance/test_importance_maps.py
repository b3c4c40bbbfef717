"""Criteria that look at feature maps, against their papers' formulas written out image by image and channel by channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_residual_network import build, groups_of, images
from torch import nn

from flowprune.errors import DataError, ModelError, UnknownNameError
from flowprune.methods.importance import CHIP, ActivationMean, APoZ, HRank, NuclearNorm
from flowprune.models import create


def naive(criterion: type, maps: np.ndarray) -> np.ndarray:
    """``[channels]`` from ``[images, channels, height, width]``."""
    count, channels = maps.shape[:2]
    scores = np.zeros(channels)
    for image in maps:
        for channel in range(channels):
            map = image[channel]
            if criterion is HRank:
                scores[channel] += np.linalg.matrix_rank(map)
            elif criterion is APoZ:
                scores[channel] += 1 - sum(value == 0 for value in map.flatten()) / map.size
            elif criterion is ActivationMean:
                scores[channel] += sum(map.flatten()) / map.size
            else:
                layer = image.reshape(channels, -1)
                without = layer.copy()
                without[channel] = 0
                scores[channel] += np.linalg.norm(layer, "nuc") - np.linalg.norm(without, "nuc")
    return scores / count


def seen(model, x):
    parts = model.eval().parts(x)
    return {name: (m if m.ndim == 4 else m[:, :, None, None]).detach().numpy() for name, m in parts.items()}


@pytest.mark.parametrize("criterion", [HRank, CHIP, ActivationMean, APoZ])
@pytest.mark.parametrize("cut", [[20], [7, 12, 1]])
def test_scores_follow_the_papers_formula(criterion, cut):
    model, x = build(), images(20)
    groups = groups_of(model, x[:1])
    scored = criterion(x.split(cut), normalize="none")(model, x[:1], list(groups.values()))
    found = dict(zip(groups, scored, strict=True))
    maps = seen(model, x)
    for name in ("inner", "hidden"):
        np.testing.assert_allclose(found[name].numpy(), naive(criterion, maps[name]), rtol=1e-9, atol=1e-9)
    # The stem and the end of the branch are one group: the mean over its two maps, the second after the addition.
    both = (naive(criterion, maps["stem"]) + naive(criterion, maps["added"])) / 2
    np.testing.assert_allclose(found["stem"].numpy(), both, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("criterion", [HRank, CHIP, ActivationMean, APoZ, NuclearNorm])
def test_after_the_addition_means_the_sum_alone(criterion):
    model, x = build(), images(9)
    groups = groups_of(model, x[:1])
    options = {"reading": "mean"} if criterion is NuclearNorm else {}
    made = criterion([x], normalize="none", aggregation="after-addition", **options)
    found = dict(zip(groups, made(model, x[:1], list(groups.values())), strict=True))
    added = seen(model, x)["added"]
    if criterion is NuclearNorm:
        expected = np.array(
            [np.mean([np.linalg.norm(one, "nuc") for one in added[:, c]]) for c in range(added.shape[1])]
        )
    else:
        expected = naive(criterion, added)
    np.testing.assert_allclose(found["stem"].numpy(), expected, rtol=1e-8, atol=1e-9)
    assert bool(torch.isfinite(found["inner"]).all())  # no addition behind it: judged as ever


def test_aggregations_of_a_coupled_group():
    model, x = build(), images(9)
    groups = groups_of(model, x[:1])
    maps = seen(model, x)
    pair = np.stack([naive(HRank, maps["stem"]), naive(HRank, maps["added"])])
    for how, expected in (("sum", pair.sum(0)), ("max", pair.max(0)), ("mean", pair.mean(0))):
        (found,) = HRank([x], normalize="none", aggregation=how)(model, x[:1], [groups["stem"]])
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    with pytest.raises(UnknownNameError, match="'after-addition'"):
        HRank([x], aggregation="after-additon")


def test_before_the_activation_nothing_is_zero():
    model, x = build(), images(5)
    groups = groups_of(model, x[:1])
    (found,) = APoZ([x], stage="normalized")(model, x[:1], [groups["inner"]])
    assert found.tolist() == [1.0] * 7
    (found,) = ActivationMean([x], stage="normalized", normalize="none")(model, x[:1], [groups["inner"]])
    np.testing.assert_allclose(found.numpy(), naive(ActivationMean, seen(model, x)["inner_raw"]), rtol=1e-9)


def test_chip_counts_every_channel_of_the_layer_whatever_its_group():
    """Half of an option-A stage's filters are tied to the stage before: both groups are measured on the whole layer."""
    torch.manual_seed(0)
    model = create("resnet20").double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    groups = groups_of(model, x[:1])
    (group,) = [g for g in groups.values() if g.name == "layer2.0.conv2"]
    seen_here = [m for m in group.maps if m.unit == "layer2.0.conv2" and m.stage == "added"]
    out = {}
    model.layer2[0].register_forward_hook(lambda module, args, result: out.setdefault("map", result.detach().clone()))
    with torch.no_grad():
        model(x)
    expected = naive(CHIP, out["map"].numpy())[seen_here[0].indices[:, 0]]
    alone = type(group)(group.name, group.channels, (), (seen_here[0],))
    (found,) = CHIP([x], stage="added", normalize="none")(model, x[:1], [alone])
    assert len(expected) < out["map"].shape[1]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("criterion", [HRank, CHIP, ActivationMean, APoZ])
def test_bad_data_is_one_clear_error(criterion):
    model, x = build(), images(4)
    groups = list(groups_of(model, x[:1]).values())
    with pytest.raises(DataError, match=f"{criterion.__name__} was given no batch"):
        criterion([])(model, x[:1], groups)
    with torch.no_grad():
        model.inner.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="'inner'"):
        criterion([x])(model, x[:1], groups)


def test_half_precision_maps_have_a_rank_too():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).bfloat16()
    x = torch.randn(2, 3, 6, 6).bfloat16()
    (found,) = HRank([x], normalize="none")(model, x, list(groups_of(model, x).values()))
    assert bool((found > 0).all()) and bool((found <= 6).all())
