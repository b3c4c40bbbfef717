"""Criteria that take gradients of the loss, against their papers' formulas written out with plain autograd."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import small_residual_network
import torch
from small_residual_network import SmallResidual, build, groups_of, images, labels
from torch import nn

from flowprune.errors import DataError, FlowpruneError, ModelError
from flowprune.methods.importance import (
    CHIP,
    ActivationMean,
    APoZ,
    Hessian,
    HRank,
    NuclearNorm,
    TaylorActivation,
    TaylorWeight,
)
from flowprune.methods.importance.hessian import random_signs

GRADIENT_CRITERIA = (TaylorWeight, TaylorActivation, Hessian)


def pairs(count: int, cut: list[int] | None = None):
    sizes = cut or [count]
    return list(zip(images(count).split(sizes), labels(count).split(sizes), strict=True))


def test_taylor_weight_is_the_squared_sum_of_gradient_times_weight():
    model = build()
    batches = pairs(20, [8, 12])
    groups = groups_of(model, images(1))
    found = dict(zip(groups, TaylorWeight(batches)(model, images(1), list(groups.values())), strict=True))
    reference = copy.deepcopy(model).eval()
    expected = dict.fromkeys(("stem", "inner", "end", "hidden"), 0.0)
    for x, y in batches:
        reference.zero_grad()
        nn.functional.cross_entropy(reference(x), y).backward()
        for name in expected:
            weight = getattr(reference, name).weight
            filters = [
                sum(g * w for g, w in zip(gradient.flatten().tolist(), row.flatten().tolist(), strict=True)) ** 2
                for gradient, row in zip(weight.grad, weight, strict=True)
            ]
            expected[name] = expected[name] + np.array(filters) / len(batches)
    np.testing.assert_allclose(found["inner"].numpy(), expected["inner"], rtol=1e-9)
    np.testing.assert_allclose(found["hidden"].numpy(), expected["hidden"], rtol=1e-9)
    np.testing.assert_allclose(found["stem"].numpy(), expected["stem"] + expected["end"], rtol=1e-9)


@pytest.mark.parametrize("cut", [[20], [8, 11, 1]])
def test_taylor_activation_is_taken_image_by_image(cut):
    """Maps that in-place activations overwrite, and one that an in-place addition joins: all as they were."""
    model = build()
    groups = groups_of(model, images(1))
    made = TaylorActivation(pairs(20, cut), normalize="none")
    found = dict(zip(groups, made(model, images(1), list(groups.values())), strict=True))
    reference = copy.deepcopy(model).eval()
    expected = {}
    for name in ("stem", "added", "hidden"):
        scores = 0.0
        for x, y in zip(images(20), labels(20), strict=True):
            map = reference.parts(x[None])[name].detach().requires_grad_()
            nn.functional.cross_entropy(reference.rest(name, map), y[None]).backward()
            product = (map * map.grad)[0].flatten(1) if map.ndim == 4 else (map * map.grad)[0][:, None]
            scores = scores + product.mean(dim=1).abs().detach().numpy() / 20
        expected[name] = scores
    np.testing.assert_allclose(found["hidden"].numpy(), expected["hidden"], rtol=1e-9)
    np.testing.assert_allclose(found["stem"].numpy(), (expected["stem"] + expected["added"]) / 2, rtol=1e-9)


def test_taylor_activation_before_an_activation_equals_that_after_it_where_it_is_a_relu():
    """relu(z) z'-chain: gradient times value is the same number on both sides of a ReLU, so the sums agree."""
    model, batches = build(), pairs(6)
    groups = [groups_of(model, images(1))["inner"]]
    after = TaylorActivation(batches, normalize="none")(model, images(1), groups)[0]
    before = TaylorActivation(batches, stage="normalized", normalize="none")(model, images(1), groups)[0]
    torch.testing.assert_close(before, after, rtol=1e-9, atol=0)
    assert float(after.min()) >= 0 and float(after.max()) > 0


def whole_hessian(model: nn.Module, names: list[str], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The Hessian over all weights in ``names``, entry by entry as autograd gives it."""
    weights = {name: dict(model.named_parameters())[name].detach() for name in names}
    sizes = [w.numel() for w in weights.values()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = {n: p.view_as(weights[n]) for n, p in zip(names, flat.split(sizes), strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(model, parts, (x,)), y)

    return torch.autograd.functional.hessian(loss, torch.cat([w.flatten() for w in weights.values()]))


@pytest.mark.parametrize("cut", [[12], [5, 7]])
def test_hessian_is_hutchinsons_estimate_of_the_traces_times_the_size(cut):
    model = build()
    groups = groups_of(model, images(1))
    names = list(
        dict.fromkeys(
            m.name for g in groups.values() for m in g.members if m.role == "output" and m.name.endswith("weight")
        )
    )
    scored = Hessian(pairs(12, cut), probes=3, seed=4)(model, images(1), list(groups.values()))
    found = dict(zip(groups, scored, strict=True))
    reference = copy.deepcopy(model).eval()
    matrix = whole_hessian(reference, names, images(12), labels(12))
    parameters = dict(reference.named_parameters())
    generator = torch.Generator().manual_seed(4)
    estimate = torch.zeros(len(matrix), dtype=torch.float64)
    for _ in range(3):
        v = torch.cat([random_signs(parameters[name], generator).flatten() for name in names])
        estimate += v * (matrix @ v) / 3
    scores = {}
    for name, part in zip(names, estimate.split([parameters[name].numel() for name in names]), strict=True):
        weight = parameters[name].detach()
        scores[name] = [
            max(0.0, sum(row)) / (2 * len(row)) * float(w.square().sum())
            for row, w in zip(part.view(len(weight), -1).tolist(), weight, strict=True)
        ]
    np.testing.assert_allclose(found["inner"].numpy(), scores["inner.weight"], rtol=1e-9, atol=1e-12)
    both = (np.array(scores["stem.weight"]) + np.array(scores["end.weight"])) / 2
    np.testing.assert_allclose(found["stem"].numpy(), both, rtol=1e-9, atol=1e-12)


def test_many_probes_come_to_the_true_trace():
    model = build()
    groups = groups_of(model, images(1))
    (found,) = Hessian(pairs(12), probes=400)(model, images(1), [groups["hidden"]])
    reference = copy.deepcopy(model).eval()
    trace = whole_hessian(reference, ["hidden.weight"], images(12), labels(12)).diagonal().view(6, 5).sum(1)
    exact = trace.clamp_min(0) / 10 * reference.hidden.weight.detach().square().sum(1)
    assert float((found - exact).norm() / exact.norm()) < 0.15
    (rough,) = Hessian(pairs(12), probes=1)(model, images(1), [groups["hidden"]])
    assert float((found - exact).norm()) < float((rough - exact).norm())


def test_a_diagonal_hessian_is_exact_with_one_probe():
    """Where no two weights interact every vector of signs gives the trace itself."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    groups = groups_of(model, x)

    def quadratic(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weight = dict(shadowed)["0.weight"]
        return (torch.arange(12.0, dtype=torch.float64).view(4, 3) * weight.square()).sum() + 0 * output.sum()

    shadowed: list = []
    import flowprune.methods.importance.hessian as module

    real = module.differentiable_shadow

    def remembered(of: nn.Module) -> nn.Module:
        twin = real(of)
        shadowed.extend(twin.named_parameters())
        return twin

    module.differentiable_shadow = remembered
    try:
        (found,) = Hessian([(x, x)], probes=1, loss=quadratic)(model, x, list(groups.values()))
    finally:
        module.differentiable_shadow = real
    trace = 2 * torch.arange(12.0, dtype=torch.float64).view(4, 3).sum(1)
    torch.testing.assert_close(found, trace / 6 * model[0].weight.detach().square().sum(1), rtol=1e-12, atol=0)


DATA_CRITERIA = (*GRADIENT_CRITERIA, HRank, CHIP, ActivationMean, APoZ, NuclearNorm)


@pytest.mark.parametrize("criterion", DATA_CRITERIA)
def test_the_model_is_left_as_it_was_to_the_bit(criterion):
    model = build()
    model.train()
    model.inner_norm.eval()
    model.end.weight.requires_grad_(False)
    model.hidden.weight.grad = torch.ones_like(model.hidden.weight)
    groups = list(groups_of(model, images(1)).values())
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    needs = [parameter.requires_grad for parameter in model.parameters()]
    random = torch.get_rng_state()
    batches = pairs(9)
    with torch.no_grad():  # a caller's own mode does not matter
        scores = criterion(batches)(model, images(1), groups)
    assert all(bool(torch.isfinite(score).all()) for score in scores)
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == needs
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["hidden.weight"]
    assert bool((model.hidden.weight.grad == 1).all())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(batches[0][0], images(9))


class Remembering(SmallResidual):
    """Writes to a buffer whenever it runs, in evaluation mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x):
        self.runs.add_(1)
        return super().forward(x)


@pytest.mark.parametrize("criterion", DATA_CRITERIA)
def test_a_buffer_that_the_forward_writes_to_is_not_the_models(criterion):
    model = small_residual_network.build(1, Remembering)
    groups = list(groups_of(model, images(1)).values())
    criterion(pairs(9, [3, 3, 3]))(model, images(1), groups)
    assert model.runs == 0


@pytest.mark.parametrize("criterion", GRADIENT_CRITERIA)
def test_bad_labels_are_one_clear_error(criterion):
    model = build()
    groups = list(groups_of(model, images(1)).values())
    with pytest.raises(DataError, match=f"{criterion.__name__} needs labels"):
        criterion([images(3)])(model, images(1), groups)
    with pytest.raises(DataError, match=f"{criterion.__name__} was given no batch"):
        criterion([])(model, images(1), groups)
    with pytest.raises(FlowpruneError, match="check the labels"):
        criterion([(images(3), torch.tensor([0, 1, 9]))])(model, images(1), groups)
    with pytest.raises(FlowpruneError, match="one number"):
        criterion([(images(3), labels(3))], loss=lambda output, y: output.sum(1))(model, images(1), groups)
    with pytest.raises(ModelError, match="loss is NaN"):
        criterion([(images(3), labels(3))], loss=lambda output, y: output.sum() * float("nan"))(
            model, images(1), groups
        )


@pytest.mark.parametrize("criterion", GRADIENT_CRITERIA)
def test_what_the_loss_does_not_depend_on_is_not_judged(criterion):
    model = build()
    groups = groups_of(model, images(1))
    made = criterion([(images(3), labels(3))], loss=lambda output, y: 0 * output.detach().sum() + 1.0)
    for score in made(model, images(1), list(groups.values())):
        assert bool(torch.isinf(score).all())


@pytest.mark.parametrize("criterion", [TaylorWeight, TaylorActivation])
def test_attention_can_be_differentiated_too(criterion):
    torch.manual_seed(0)

    class Attentive(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 8, 1)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.wide, self.narrow, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 4)

        def forward(self, x):
            tokens = self.first(x).flatten(2).transpose(1, 2)
            tokens = tokens + self.attention(tokens, tokens, tokens)[0]
            return self.head((tokens + self.narrow(self.wide(tokens).relu_())).mean(1))

    model = Attentive().double()
    groups = groups_of(model, images(1))
    found = dict(zip(groups, criterion(pairs(5))(model, images(1), list(groups.values())), strict=True))
    assert bool(torch.isfinite(found["wide"]).all()) and float(found["wide"].max()) > 0
