"""What a training decided is cut as it was decided: exactly what is to leave, or by its scores under a budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import IMAGE, NETWORKS, SmallNetwork
from torch import nn

import flowprune as fp
from flowprune.engine.interfaces import Outcome, Training
from flowprune.engine.planning import CoupledModel
from flowprune.errors import BudgetError, ModelError
from flowprune.methods.regularizers import REGISTRY

X = torch.zeros(2, 3, 8, 8)


class Block(nn.Module):
    """A stream of two layers, a block with a depthwise convolution, a grouped one, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv1, self.bn1 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.conv2 = nn.Conv2d(8, 6, 1)
        self.grouped = nn.Conv2d(6, 8, 1, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.conv2(self.depthwise(self.bn1(self.conv1(x)).relu()).relu())).relu()
        out: torch.Tensor = self.head(self.grouped(x).relu().mean((2, 3)))
        return out


def numbers(**of: list[int]) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.tensor(own) for name, own in of.items()}


@pytest.mark.parametrize("name", ["tpp", "greg", "wgsef"])
def test_what_a_method_silenced_leaves_and_nothing_else_and_the_outputs_stay(name: str) -> None:
    torch.manual_seed(0)
    model = Block()
    method: Any = REGISTRY[name](model, inputs=X)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    method.begin(Training(optimizer, 1, 60))
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8) % 3
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        (loss + method.penalty(loss.detach())).backward()
        method.after_backward()
        optimizer.step()
        method.after_step(optimizer, lambda: torch.zeros(()))
    outcome = method.finish()
    made = fp.plan(model.eval(), X, outcome=outcome)
    shapes = {key: list(parameter.shape) for key, parameter in model.named_parameters()}
    gone = {key: set(own[0]) for key, own in made.removed.items() if 0 in own and len(shapes.get(key, ())) > 1}
    assert not made.stays and gone == {key: set(own.tolist()) for key, own in outcome.leaves.items() if len(own)}
    assert (made.asked, made.importance) == ("outcome", "Decided")
    expected, found = model(x).detach(), fp.prune(model, made)(x).detach()
    assert float((expected - found).abs().max()) < 1e-5 * float(expected.abs().max())


def test_scores_stand_in_for_an_importance_under_a_budget() -> None:
    torch.manual_seed(1)
    model = Block().eval()
    worth = {name: torch.rand(len(p), dtype=torch.float64) for name, p in model.named_parameters() if p.ndim > 1}

    def importance(model: nn.Module, inputs: Any, groups: Any) -> list[torch.Tensor]:
        told = [[worth[m.name][torch.from_numpy(m.indices)].mean(1) for m in group.makers] for group in groups]
        return [torch.stack(own).mean(0) for own in told]

    for budget in ({"macs": 0.5}, {"params": 0.6, "scope": "local"}, {"channels": 0.5}):
        ours = fp.plan(model, X, outcome=Outcome(scores=worth), **budget)
        assert ours.removed == fp.plan(model, X, importance=importance, **budget).removed and not ours.is_empty
    # a layer that has none is judged by the others that make its channels, and is the last to leave where there are none
    some = {name: score for name, score in worth.items() if name in ("conv1.weight", "grouped.weight")}
    made = fp.plan(model, X, outcome=Outcome(leaves={}, scores=some), macs=0.6)
    assert "stem.weight" not in made.removed and set(made.removed) >= {"conv1.weight", "depthwise.weight"}


def test_a_channel_that_others_make_too_stays_and_is_named() -> None:
    model = Block()
    leaves = numbers(stem=[0, 3, 1, 4], conv2=[1, 4, 5], conv1=[3], depthwise=[3, 4], head=[0])
    with pytest.warns(fp.FlowpruneWarning, match="not all leaves that the outcome says should; ") as caught:
        made = fp.plan(model, X, outcome=Outcome(leaves=leaves))
    assert made.removed["stem.weight"][0] == made.removed["conv2.weight"][0] == (1, 4)
    assert made.removed["conv1.weight"][0] == made.removed["depthwise.weight"][0] == (3,)
    assert dict(made.stays) == {
        "stem.weight": "2 of its filters: conv2.weight makes the same channels, and is to keep some",
        "conv2.weight": "1 of its filters: stem.weight makes the same channels, and is to keep some",
        "depthwise.weight": "1 of its filters: conv1.weight makes the same channels, and is to keep some",
        "head.weight": "1 of its filters: it is an output of the model",
    }
    assert all(f"{name} keeps {reason}" in str(caught[0].message) for name, reason in made.stays.items())
    assert caught[0].filename == __file__ and all(f"kept: {name}: " in str(made) for name in made.stays)
    assert fp.Plan.from_dict(made.as_dict()) == made


def test_what_must_stay_in_step_or_be_left_is_named() -> None:
    model = Block()
    with pytest.warns(fp.FlowpruneWarning):  # the two groups of a grouped convolution lose equally many, or none
        made = fp.plan(model, X, outcome=Outcome(leaves=numbers(grouped=[0, 1])))
    assert made.is_empty and "leave in step" in made.stays["grouped.weight"]
    made = fp.plan(model, X, outcome=Outcome(leaves=numbers(grouped=[0, 1, 4, 6])))
    assert made.removed["grouped.weight"][0] == (0, 1, 4, 6)
    everything = numbers(conv1=list(range(8)), depthwise=list(range(8)))
    with pytest.warns(fp.FlowpruneWarning, match="keeps two channels"):
        made = fp.plan(model, X, outcome=Outcome(leaves=everything))
    assert len(made.removed["conv1.weight"][0]) == 6
    with pytest.warns(fp.FlowpruneWarning, match="multiples of 4"):
        made = fp.plan(model, X, outcome=Outcome(leaves=numbers(conv1=[0], depthwise=[0])), round_to=4)
    assert made.is_empty
    with pytest.warns(fp.FlowpruneWarning, match="frozen, as asked"):
        made = fp.plan(model, X, outcome=Outcome(leaves=numbers(conv1=[0])), freeze={"conv1": 0})
    with pytest.warns(fp.FlowpruneWarning, match="removes nothing; it names no filter"):
        fp.plan(model, X, outcome=Outcome(leaves={}))


@settings(max_examples=15, deadline=None)
@given(model=NETWORKS, seed=st.integers(0, 99))
def test_any_choice_of_whole_channels_leaves_as_it_was_chosen(model: SmallNetwork, seed: int) -> None:
    torch.manual_seed(seed)
    coupled = CoupledModel.of(model, torch.zeros(IMAGE))
    leaves: dict[str, torch.Tensor] = {}
    for groups in coupled.coupling.classes:
        size = coupled.coupling.groups[groups[0]].channels
        chosen = torch.randperm(size)[: size // 3]
        for group in groups:
            for maker in coupled.coupling.groups[group].makers:
                own = torch.from_numpy(maker.indices)[chosen].reshape(-1)
                leaves[maker.name] = torch.cat([leaves.get(maker.name, own[:0]), own])
    if not any(len(own) for own in leaves.values()):
        return
    made = fp.plan(model.eval(), torch.zeros(IMAGE), outcome=Outcome(leaves=leaves))
    assert not made.stays
    cut = {name: sorted(own.tolist()) for name, own in leaves.items() if len(own)}
    assert {name: list(made.removed[name][0]) for name in cut} == cut


LEAVES, SCORES = Outcome(leaves=numbers(conv1=[0])), Outcome(scores={"conv1.weight": torch.ones(8)})


@pytest.mark.parametrize(
    ("outcome", "options", "said"),
    [
        (LEAVES, {"macs": 0.5}, "macs=0.5 needs to know what filters are worth, and this outcome has no scores"),
        (LEAVES, {"importance": fp.importance.L2()}, "leave importance= out"),
        (LEAVES, {"threshold": 0.1}, "threshold=0.1 asks no outcome"),
        (LEAVES, {"branches": True}, "branches with outcome="),
        (LEAVES, {"heads": "both"}, 'outcome= with heads="both"'),
        (SCORES, {}, "exactly one budget"),
        (SCORES, {"macs": 0.5, "importance": fp.importance.L2()}, "leave importance= out"),
        ((LEAVES,), {"macs": 0.5}, "one at a time"),
    ],
)
def test_what_goes_ill_together_is_one_line(outcome: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BudgetError, match=said) as error:
        fp.plan(Block(), X, outcome=outcome, **options)
    assert "\n" not in str(error.value)


def test_names_and_numbers_that_are_none_are_one_line() -> None:
    for leaves, said in (
        ({"conv.weight": torch.tensor([0])}, "'conv.weight' is no weight of the model; did you mean 'conv"),
        (numbers(conv1=[8]), "conv1.weight has 8 filters, and no number 8"),
        ({"conv1.weight": torch.ones(8, dtype=torch.bool)}, "are the numbers of its filters"),
    ):
        with pytest.raises(ModelError, match=said):
            fp.plan(Block(), X, outcome=Outcome(leaves=leaves))
    for scores, said in (
        ({"conv.weight": torch.ones(8)}, "no parameter of Block; did you mean"),
        ({"conv1.weight": torch.ones(7)}, r"are \[7\], and it has 8 filters"),
        ({"conv1.weight": torch.full((8,), torch.nan)}, "hold NaN"),
    ):
        with pytest.raises(ModelError, match=said):
            fp.plan(Block(), X, outcome=Outcome(scores=scores), macs=0.5)
    with pytest.raises(BudgetError, match="cannot be cut in steps"):
        fp.prune_iteratively(Block(), X, steps=2, outcome=SCORES, macs=0.5)
