"""The masks that choose by scores: single weights and N:M, and the scores of single weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures import fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flowprune as fp
from flowprune.engine.measuring.single_weights import single_weights
from flowprune.errors import BudgetError, FlowpruneError, ModelError, UnknownNameError
from flowprune.methods.importance import weight_scores
from flowprune.methods.importance.weight_scores import RandomWeights, WeightMagnitude
from flowprune.methods.masks import NM, REGISTRY, Weight, density

SHAPES = st.lists(
    st.sampled_from([(3, 4), (5, 1, 3, 3), (4, 6, 3, 3), (2, 7), (4, 4, 1, 1), (3, 5, 2)]), min_size=1, max_size=4
)


def drawn(shapes: list[tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {str(number): torch.rand(shape, generator=generator) for number, shape in enumerate(shapes)}


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0.05, 1.0), st.integers(0, 99))
def test_the_highest_scores_of_the_network_stay_and_exactly_as_many_as_asked(shapes, keep, seed) -> None:
    scores = drawn(shapes, seed)
    every = np.concatenate([score.flatten().numpy() for score in scores.values()])
    count = int(keep * len(every) + 1e-6)
    if count == 0:
        with pytest.raises(BudgetError, match="keeps none"):
            Weight().select(scores, keep)
        return
    masks = Weight().select(scores, keep)
    kept = np.concatenate([scores[name][mask].numpy() for name, mask in masks.items()])
    assert np.array_equal(np.sort(kept), np.sort(every)[len(every) - count :])
    local = Weight(scope="local")
    shares = dict.fromkeys(scores, keep)
    for masks in (Weight().select(scores, shares), local.select(scores, shares)):
        assert [int(mask.sum()) for mask in masks.values()] == [int(keep * s.numel() + 1e-6) for s in scores.values()]


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0.25, 1.0), st.sampled_from([2, 4, 5]), st.sampled_from(["input", "flat"]), st.integers(0, 99))
def test_n_of_m_is_never_above_the_budget_and_within_one_n_of_one_tensor(shapes, keep, m, along, seed) -> None:
    scores = drawn(shapes, seed)
    total = sum(score.numel() for score in scores.values())
    if int(keep * m + 1e-6) == 0:
        with pytest.raises(BudgetError, match="at least"):
            NM(m=m, along=along).select(scores, keep)
        return
    masks = NM(m=m, along=along).select(scores, keep)
    kept = sum(int(mask.sum()) for mask in masks.values())
    n = int(keep * m + 1e-6)
    assert kept <= keep * total + 1e-6
    if keep * m - n > 1e-6:  # no tensor that still has n would fit with n + 1
        more = NM(m=m, along=along).select(scores, (n + 1) / m)
        extra = [int((more[name] & ~mask).sum()) for name, mask in masks.items()]
        assert kept + min([e for e in extra if e], default=total) > int(keep * total)
    for name, mask in masks.items():
        assert mask.shape == scores[name].shape
        rows = mask.movedim(1, -1).reshape(len(mask), -1) if along == "input" else mask.reshape(1, -1)
        for row in rows:
            groups = [int(part.sum()) for part in row.split(m)]
            assert max(groups) <= n + 1


def test_n_of_m_zeroes_what_the_public_code_of_iss_p_zeroes() -> None:
    case = fixture("issp-selection")
    for inputs, outputs in zip(case["inputs"]["nm"], case["outputs"]["nm"], strict=True):
        zero, of = (int(word) for word in outputs["effective"].split() if word.isdigit())
        weight = torch.tensor(inputs["W"], dtype=torch.float64)
        mask = NM(m=of, along="flat").select({"weight": weight.abs()}, keep=(of - zero) / of)["weight"]
        assert (~mask).flatten().nonzero().flatten().tolist() == outputs["pruned_sorted"]


def test_where_m_does_not_divide_the_sparsity_is_the_one_asked_for() -> None:
    """The public code raises N and M together there: of 54 weights 2:4 becomes 4:6, and two thirds are zero."""
    weight = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = NM(along="flat").select({"weight": weight}, keep=0.5)["weight"]
    assert int(mask.sum()) == 27


def test_a_share_between_two_n_goes_to_the_tensor_whose_weights_gain_most() -> None:
    scores = {"flat": torch.ones(8, 8), "steep": torch.tensor([100.0, 1.0, 1.0, 1.0]).repeat(8, 2)}
    assert [int(mask.sum()) for mask in NM().select(scores, keep=0.375).values()] == [32, 16]
    scores["steep"] = torch.tensor([100.0, 99.0, 1.0, 1.0]).repeat(8, 2)
    assert [int(mask.sum()) for mask in NM().select(scores, keep=0.375).values()] == [16, 32]


@pytest.mark.parametrize("mask", [Weight(), NM()])
def test_what_no_mask_can_do_is_one_line(mask) -> None:
    with pytest.raises(ModelError, match="scores of a hold NaN"):
        mask.select({"a": torch.tensor([[1.0, float("nan")]])}, 0.5)
    with pytest.raises(ModelError, match="no weights"):
        mask.select({}, 0.5)
    with pytest.raises(BudgetError, match=r"weights=1.5 is not a budget"):
        mask.select({"a": torch.ones(2, 4)}, 1.5)
    with pytest.raises(BudgetError, match="is not a share"):
        mask.select({"a": torch.ones(2, 4)}, {"a": -0.5})
    with pytest.raises(UnknownNameError, match="did you mean 'layer'"):
        mask.select({"layer": torch.ones(2, 4)}, {"layers": 0.5})
    assert mask.select({"a": torch.ones(2, 4)}, {})["a"].all()


def test_infinite_scores_stay_and_equal_ones_give_the_same_mask_twice() -> None:
    scores = {"a": torch.tensor([[1.0, float("inf"), 2.0, 3.0]])}
    for mask in (Weight(), NM()):
        assert mask.select(scores, 0.25)["a"].tolist() == [[False, True, False, False]]
    equal = {"a": torch.zeros(3, 5), "b": torch.zeros(4)}
    assert all(torch.equal(Weight().select(equal, 0.4)[n], Weight().select(equal, 0.4)[n]) for n in equal)
    with pytest.raises(BudgetError, match="needs a budget"):
        Weight().select(scores)
    for wrong in ({"scope": "layer"}, {"m": 1}, {"along": "rows"}):
        kind = Weight if "scope" in wrong else NM
        with pytest.raises(FlowpruneError, match=next(iter(wrong))):
            kind(**wrong)


class Every(nn.Module):
    """A layer of each kind, a tied embedding, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 4))
        self.embedding = nn.Embedding(7, 4)
        self.convolution = nn.Conv1d(4, 4, 3, groups=4)
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.recurrent = nn.GRU(4, 3)
        self.again = self.convolution
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embedding.weight


def test_single_weights_are_those_of_layers_once_each() -> None:
    names = list(single_weights(Every()))
    assert names == [
        *("convolution.weight", "attention.in_proj_weight", "attention.out_proj.weight"),
        *("recurrent.weight_ih_l0", "recurrent.weight_hh_l0"),
    ]
    apart = nn.MultiheadAttention(4, 2, kdim=3, vdim=3)
    assert {"q_proj_weight", "k_proj_weight", "v_proj_weight"} < set(single_weights(apart))


def test_weights_that_no_mask_can_hold_are_named() -> None:
    normed = nn.Sequential(nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    with pytest.raises(ModelError, match=r"1\.weight is computed from other parameters"):
        WeightMagnitude()(normed)
    broken = nn.Linear(3, 3)
    broken.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="weight holds NaN"):
        WeightMagnitude()(broken)
    with pytest.raises(ModelError, match="nothing to mask"):
        WeightMagnitude()(nn.BatchNorm2d(3))
    with pytest.raises(ModelError, match="sizes are not known"):
        WeightMagnitude()(nn.LazyLinear(3))


def test_scores_leave_the_model_and_the_random_state_alone() -> None:
    model = fp.models.create("resnet20").train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    for name in weight_scores.REGISTRY:
        scores = weight_scores.REGISTRY[name]()(model)
        assert {key: score.shape for key, score in scores.items()} == {
            key: weight.shape for key, weight in single_weights(model).items()
        }
        assert 0 < density(Weight().select(scores, 0.3)) <= 0.3
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    one, two = RandomWeights(seed=3)(model), RandomWeights(seed=3)(model)
    assert all(torch.equal(one[key], two[key]) for key in one)
    kernels = RandomWeights(seed=3, kernels=True)(model)["layer1.0.conv1.weight"]
    assert torch.equal(kernels, kernels[:, :, :1, :1].expand_as(kernels)) and len(kernels.unique()) == 16 * 16
    name = next(iter(one))
    assert torch.equal(WeightMagnitude()(model)[name], model.get_parameter(name).abs())


def test_every_mask_is_known_by_name_and_says_what_it_is() -> None:
    assert {"weight", "n_m", "predefined_sparsity", "hetconv"} <= set(REGISTRY)
    for name in REGISTRY:
        assert (REGISTRY[name].__doc__ or "").strip()
        keep = 0.5 if name in ("weight", "n_m") else None
        masks = REGISTRY[name]().select({"stem": torch.ones(4, 3, 3, 3), "inner": torch.rand(64, 64, 3, 3)}, keep)
        assert all(mask.dtype == torch.bool for mask in masks.values())
