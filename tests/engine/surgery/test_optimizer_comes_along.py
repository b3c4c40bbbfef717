"""After a cut the optimizer goes on as if it had always driven the small model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

import flowprune.models as models
from flowprune.errors import ModelError
from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        lambda p: torch.optim.AdamW(p, lr=1e-3),
        lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5),
    ],
    ids=["sgd", "adamw", "rmsprop"],
)
def test_state_is_cut_like_its_parameter(make: object) -> None:
    torch.manual_seed(0)
    model = models.create("resnet8")
    assert callable(make)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = make([{"params": decayed}, {"params": others, "weight_decay": 0.0}])
    images, targets = torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    for _ in range(2):
        functional.cross_entropy(model(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    before = copy.deepcopy(optimizer.state_dict())
    made = plan(model, images[:1], importance=L2(), channels=0.5)
    small, new = prune(model, made, optimizer=optimizer)

    assert type(new) is type(optimizer) and new.param_groups[1]["weight_decay"] == 0.0
    live = {id(p) for p in small.parameters()}
    assert {id(p) for group in new.param_groups for p in group["params"]} == live
    names = {id(p): name for name, p in model.named_parameters()}
    smaller = dict(small.named_parameters())
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        for key, value in state.items():
            cut_value = new.state[smaller[name]][key]
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                expected = value
                for dimension, gone in made.removed.get(name, {}).items():
                    kept = [i for i in range(value.shape[dimension]) if i not in gone]
                    expected = expected.index_select(dimension, torch.tensor(kept))
                assert torch.equal(cut_value, expected)
            else:
                assert torch.equal(torch.as_tensor(cut_value), torch.as_tensor(value))
    after = optimizer.state_dict()
    assert all(
        torch.equal(torch.as_tensor(before["state"][i][k]), torch.as_tensor(after["state"][i][k]))
        for i in before["state"]
        for k in before["state"][i]
    )
    functional.cross_entropy(small(images), targets).backward()
    old_weight = small.conv1.weight.detach().clone()
    new.step()
    assert not torch.equal(old_weight, small.conv1.weight)


def test_a_scheduler_of_the_old_optimizer_does_not_drive_the_new_one() -> None:
    model = models.create("resnet8")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # wraps optimizer.step
    small, new = prune(model, torch.randn(1, 3, 16, 16), importance=L2(), channels=0.5, optimizer=optimizer)
    functional.cross_entropy(small(torch.randn(4, 3, 16, 16)), torch.zeros(4, dtype=torch.long)).backward()
    weight = small.conv1.weight.detach().clone()
    new.step()
    assert not torch.equal(weight, small.conv1.weight)


def test_an_optimizer_of_another_model_is_refused() -> None:
    model, other = models.create("resnet8"), models.create("resnet8")
    with pytest.raises(ModelError, match="not the model's"):
        prune(
            model,
            torch.randn(1, 3, 16, 16),
            importance=L2(),
            channels=0.5,
            optimizer=torch.optim.SGD(other.parameters(), lr=0.1),
        )
