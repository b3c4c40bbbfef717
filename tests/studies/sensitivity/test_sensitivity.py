"""``fp.sensitivity``: every number is what a real cut of that group alone does, and the allocation keeps its promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import flowprune as fp
from flowprune.errors import BudgetError, ModelError
from flowprune.methods.importance import L1, L2
from flowprune.studies.sensitivity import CutPoint, GroupSensitivity, Sensitivity
from flowprune.studies.sensitivity.sensitivity_page import sensitivity_html


class Small(nn.Module):
    """Two layers in a row and a residual addition behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 10, 3)
        self.stem = nn.Conv2d(10, 6, 1)
        self.branch = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(functional.relu(self.first(x)))
        x = functional.relu(x + self.branch(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def model() -> Small:
    torch.manual_seed(0)
    return Small().eval()


X = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def agreement(dense: nn.Module) -> Any:
    """Per cent of the images on which a model still answers as the dense one did."""
    with torch.no_grad():
        answers = dense.eval()(X).argmax(1)

    def evaluate(small: nn.Module) -> float:
        with torch.no_grad():
            return 100 * (small.eval()(X).argmax(1) == answers).float().mean().item()

    return evaluate


def silenced(model: Small, filters: dict[str, list[int]], readers: dict[str, list[int]]) -> Small:
    """The dense model with channels zeroed where they are made and where they are read: no surgery."""
    torch.manual_seed(0)
    twin = Small().eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, gone in filters.items():
            twin.get_submodule(name).weight[gone] = 0
            twin.get_submodule(name).bias[gone] = 0
        for name, gone in readers.items():
            twin.get_submodule(name).weight[:, gone] = 0
    return twin


def worst(weights: list[torch.Tensor], count: int) -> list[int]:
    """By the mean over the layers of each layer's L2 norms over their mean."""
    norms = [weight.flatten(1).norm(dim=1) for weight in weights]
    return torch.stack([norm / norm.mean() for norm in norms]).mean(0).argsort()[:count].tolist()


def test_every_number_is_that_of_the_group_cut_alone(model: Small) -> None:
    evaluate = agreement(model)
    found = fp.sensitivity(model, X[:1], evaluate, importance=L2(), shares=(0.2, 0.5, 0.8))
    rows = {row.groups[0]: row for row in found.rows}
    assert set(rows) == {"first", "stem"} and found.accuracy == 100
    assert set(rows["stem"].layers) == {"stem", "branch"}
    for share, count, point in zip((0.2, 0.5, 0.8), (2, 5, 8), rows["first"].points, strict=True):
        gone = worst([model.first.weight], count)
        assert (point.share, point.removed) == (share, count)
        assert point.accuracy == pytest.approx(evaluate(silenced(model, {"first": gone}, {"stem": gone})))
        assert point.params == sum(p.numel() for p in model.parameters()) - count * (9 + 1 + 6)
    # Keeping four fifths of six channels means four; keeping one of them is too few for a dimension.
    for count, point in zip((2, 3, 4), rows["stem"].points, strict=True):
        gone = worst([model.stem.weight, model.branch.weight], count)
        twin = silenced(model, {"stem": gone, "branch": gone}, {"branch": gone, "head": gone})
        assert point.removed == count
        assert point.accuracy == pytest.approx(evaluate(twin))


def test_the_model_is_left_alone_and_the_criterion_asked_once(model: Small) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    asked = []

    def counted(*arguments: Any) -> Any:
        asked.append(arguments)
        return L1()(*arguments)

    done: list[tuple[int, int, str]] = []
    fp.sensitivity(
        model.train(),
        X[:1],
        lambda small: 1.0,
        importance=counted,
        shares=[0.5, 0.3],
        progress=lambda *report: done.append(report),
    )
    assert len(asked) == 1 and [report[:2] for report in done] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_allocation_cuts_every_group_to_the_most_that_its_drop_allows(model: Small) -> None:
    evaluate = agreement(model)
    found = fp.sensitivity(model, X[:1], evaluate)
    for drop in (0.0, 5.0, 30.0):
        kept = found.allocation(drop)
        assert set(kept) == {"first", "stem"}
        for row in found.rows:
            allowed = [0]
            for point in row.points:
                if point.accuracy < found.accuracy - drop:
                    break
                allowed.append(point.removed)
            alone = fp.prune(
                model,
                X[:1],
                importance=L2(),
                channels={**dict.fromkeys(kept, 1.0), row.name: kept[row.name]},
                largest_cut=1.0,
            )
            assert alone.get_submodule(row.name).weight.shape[0] == row.channels - allowed[-1]
            assert evaluate(alone) >= found.accuracy - drop
    small = fp.prune(model, X[:1], importance=L2(), channels=found.allocation(100.0), largest_cut=1.0)
    assert small.first.weight.shape[0] == 1 or small.first.weight.shape[0] == 2


def test_a_good_number_behind_a_bad_one_is_luck_and_not_used() -> None:
    points = tuple(CutPoint(share, int(10 * share), 1, 1, top1) for share, top1 in ((0.2, 90), (0.4, 70), (0.6, 91)))
    found = Sensitivity(92.0, 1, 1, "L2", (0.2, 0.4, 0.6), (GroupSensitivity(("a", "b"), ("a",), 10, points),))
    assert found.allocation(5) == {"a": 0.8, "b": 0.8}
    assert found.allocation(1) == {"a": 1.0, "b": 1.0}
    with pytest.raises(BudgetError, match="drop=-1"):
        found.allocation(-1)


class Halves(nn.Module):
    """Two halves of one convolution's channels, read by different layers: they stay equally many."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Conv2d(1, 12, 1)
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.both(x).chunk(2, 1)
        return self.head(torch.cat([self.left(left), self.right(right)], 1).mean((2, 3)))


def test_groups_in_step_are_cut_together() -> None:
    torch.manual_seed(0)

    def widths(small: nn.Module) -> float:
        left, right = small.get_submodule("left").weight.shape[1], small.get_submodule("right").weight.shape[1]
        assert left == right
        return float(left)

    found = fp.sensitivity(Halves().eval(), torch.zeros(1, 1, 4, 4), widths, shares=[0.5])
    row = next(row for row in found.rows if "both" in row.layers)
    assert len(row.groups) == 2 and row.channels == 6
    assert row.points[0].removed == 3 and row.points[0].accuracy == 3.0
    assert set(found.allocation(3.0)) >= set(row.groups)
    small = fp.prune(Halves().eval(), torch.zeros(1, 1, 4, 4), importance=L2(), channels=found.allocation(3.0))
    assert small.get_submodule("both").weight.shape[0] == 6


@pytest.mark.parametrize("shares", [(), (0.0,), (1.0,), (0.5, "half"), (True,)])
def test_what_is_no_share_is_refused(model: Small, shares: Any) -> None:
    with pytest.raises(BudgetError, match="shares"):
        fp.sensitivity(model, X[:1], lambda small: 1.0, shares=shares)


@pytest.mark.parametrize("answer", [None, float("nan"), "good"])
def test_what_is_no_accuracy_is_refused(model: Small, answer: Any) -> None:
    with pytest.raises(ModelError, match="evaluate returned"):
        fp.sensitivity(model, X[:1], lambda small: answer)


def test_the_page_shows_every_group_and_number(model: Small) -> None:
    found = fp.sensitivity(model, X[:1], agreement(model), shares=(0.2, 0.5))
    page = sensitivity_html(found, "small <b>", "lead", {"python": "3"})
    assert "small &lt;b&gt;" in page and page.count('data-figure="figure-') == 1
    for row in found.rows:
        for point in row.points:
            assert f'<td class="number">{point.accuracy:.2f}</td>' in page
    assert str(found).count("\n") == 1 + len(found.rows)
