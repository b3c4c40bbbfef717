"""Training on with shared values."""

from __future__ import annotations

import pytest
import torch
from fixtures import fixture
from torch import nn

from flowprune.errors import FlowpruneError
from flowprune.methods.quantizers import (
    CumulativeRetraining,
    SharedValues,
    UniformLevels,
    WeightClusters,
    summed_by_value,
)

torch.set_num_threads(1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3)).double()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight *= torch.rand_like(layer.weight) > 0.4
    return model


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if name.endswith("weight")}


def loss_of(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, 2, 4, 4, generator=generator, dtype=torch.float64)
    return nn.functional.cross_entropy(model(inputs), torch.arange(8) % 3)


def trained(
    what: str, optimizer: type = torch.optim.SGD, steps: int = 12, **options: float
) -> tuple[nn.Module, CumulativeRetraining]:
    model = network()
    retraining = CumulativeRetraining(model, WeightClusters().fit(weights(model), values=5), what=what)
    steps_of = optimizer(model.parameters(), lr=0.01, **options)
    for _ in range(steps):
        steps_of.zero_grad()
        loss_of(model).backward()
        retraining.after_backward()
        steps_of.step()
        retraining.after_step()
    return model, retraining


def test_sums_are_those_of_the_authors():
    case = fixture("sHAM-codebook-cumulative-gradient")
    codes = torch.tensor(case["inputs"]["indices"])
    numbers = torch.tensor(case["inputs"]["per_weight"], dtype=torch.float64)
    summed = summed_by_value({"w": codes}, {"w": numbers}, case["inputs"]["k"])
    expected = torch.tensor(case["outputs"]["per_centroid"], dtype=torch.float64).ravel()
    torch.testing.assert_close(summed, expected, rtol=0, atol=1e-12)


def test_a_value_gets_the_derivative_of_the_loss_with_respect_to_it():
    model = network()
    shared = UniformLevels().fit(weights(model), values=6)
    retraining = CumulativeRetraining(model, shared)
    loss_of(model).backward()
    retraining.after_backward()
    codebook = shared.codebook.clone().requires_grad_()
    extended = torch.cat([codebook, torch.zeros(1, dtype=torch.float64)])
    built = {name: extended[codes] for name, codes in shared.codes.items()}
    inputs = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    nn.functional.cross_entropy(torch.func.functional_call(model, built, inputs), torch.arange(8) % 3).backward()
    for name, codes in shared.codes.items():
        gradient = model.get_parameter(name).grad
        assert not gradient[codes == -1].any()
        torch.testing.assert_close(gradient[codes >= 0], codebook.grad[codes[codes >= 0]], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("what", ["gradients", "changes"])
def test_weights_stay_shared_zeros_stay_zero_and_the_loss_falls(what: str):
    model, retraining = trained(what, torch.optim.SGD, momentum=0.5)
    before, _ = trained(what, steps=0)
    assert float(loss_of(model)) < float(loss_of(before))
    for name, weight in retraining.shared.dequantize().items():
        assert torch.equal(model.get_parameter(name).detach(), weight)
        assert torch.equal(weight == 0, retraining.shared.codes[name] == -1)


def test_both_forms_are_one_under_plain_sgd_and_differ_under_adam():
    gradients, changes = trained("gradients"), trained("changes")
    torch.testing.assert_close(gradients[1].shared.codebook, changes[1].shared.codebook, rtol=1e-9, atol=1e-12)
    gradients, changes = trained("gradients", torch.optim.Adam), trained("changes", torch.optim.Adam)
    assert not torch.allclose(gradients[1].shared.codebook, changes[1].shared.codebook, rtol=1e-3)


def test_a_resumed_retraining_goes_on_exactly():
    _, whole = trained("gradients", steps=6)
    model, half = trained("gradients", steps=3)
    resumed = CumulativeRetraining(network(), WeightClusters().fit(weights(network()), values=5))
    resumed.load_state_dict(half.state_dict())
    assert torch.equal(resumed.shared.codebook, half.shared.codebook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    going_on = CumulativeRetraining(model, resumed.shared)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        going_on.after_backward()
        optimizer.step()
        going_on.after_step()
    assert torch.equal(going_on.shared.codebook, whole.shared.codebook)


def test_what_does_not_fit_is_said_in_one_line():
    model = network()
    shared = WeightClusters().fit(weights(model), values=5)
    with pytest.raises(FlowpruneError, match=r"shared values for 0\.weight \[4, 2, 3, 3\] do not fit"):
        CumulativeRetraining(nn.Sequential(nn.Linear(2, 2)), shared)
    with pytest.raises(FlowpruneError, match="sum 'gradients' or 'changes'"):
        CumulativeRetraining(model, shared, what="signs")
    with pytest.raises(FlowpruneError, match="codebook of 2 values"):
        CumulativeRetraining(model, shared).load_state_dict({"codebook": [1.0, 2.0]})
    assert isinstance(shared, SharedValues)
