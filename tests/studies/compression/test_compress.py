"""``fp.compress`` with a user's own train and evaluate functions, on a small network that tells points apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import flowprune as fp
from flowprune.engine.measuring.latency import Timing
from flowprune.engine.planning import latency_budget
from flowprune.errors import BudgetError, DataError, ModelError, OutputError, UnreachableBudgetError
from flowprune.studies.compression import Round
from flowprune.studies.sensitivity import BySensitivity, CutPoint, GroupSensitivity, Sensitivity

X = torch.zeros(1, 8)


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points in eight dimensions around four corners."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 4
    corners = torch.randn(4, 8, generator=torch.Generator().manual_seed(7))
    return corners[targets] + 0.6 * torch.randn(count, 8, generator=generator), targets


def learn(model: nn.Module, steps: int, penalty: Callable[..., Tensor] | None = None) -> None:
    images, targets = points(256, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for _ in range(steps):
        logits = model(images)
        loss = functional.cross_entropy(logits, targets)
        if penalty is not None:
            loss = loss + penalty(batch=(images, targets), outputs=logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    learn(model, 60)
    return model


def right(model: nn.Module, count: int = 600) -> Tensor:
    images, targets = points(count, 2)
    with torch.no_grad():
        return model.eval()(images).argmax(1) == targets


def trained_further(small: nn.Module, told: Round) -> None:
    learn(small, max(1, int(20 * told.share)), told.teacher.penalty)


def test_the_small_model_meets_its_budget_and_has_learned(trained: nn.Module) -> None:
    before, told, said = [p.clone() for p in trained.parameters()], [], []

    def train(small: nn.Module, this: Round) -> None:
        told.append((this.number, this.of, this.share))
        trained_further(small, this)

    done = fp.compress(
        trained, X, evaluate=right, train=train, batches=[points(64, 1)], macs=0.4, rounds=[3], say=said.append
    )
    assert done.plan.macs[1] == fp.measure(done.model, X).macs <= 0.4 * fp.measure(trained, X).macs
    assert told == [(1, 3, 0.25), (2, 3, 0.25), (3, 3, 0.5)]
    assert all(torch.equal(one, other) for one, other in zip(before, trained.parameters(), strict=True))
    assert done.before.accuracy == pytest.approx(100 * float(right(trained).float().mean()))
    assert done.after.accuracy == pytest.approx(100 * float(right(done.model).float().mean()))
    assert done.after.accuracy > 80 and done.drop is not None and done.drop.at_most > done.drop.points
    ways = done.record.content["ways"].values()
    assert {way["criterion"] for way in ways} == {"l2", "fpgm", "nuclear_norm"}
    assert {way["allocation"] for way in ways} == {"sensitivity", "ranking"}
    best = max(way["accuracy"] for way in ways if way["rounds"] == 1)
    chosen = done.record.content["way"]
    assert next(way for way in ways if way["accuracy"] == best)["criterion"] == chosen["criterion"]
    assert "% of the MACs by" in str(done) and any(line.startswith("chosen: ") for line in said)


def test_the_smallest_model_that_passes_is_kept_whatever_came_last(trained: nn.Module) -> None:
    done = fp.compress(trained, X, evaluate=right, train=trained_further, max_drop=3, criteria=["l2"], rounds=[1])
    tried = done.record.content["tried"]
    passed = [one["macs"] for one in tried if one["passed"]]
    assert 1 < len(tried) <= 5 and passed
    assert done.drop is not None and done.drop.at_most <= 3
    assert done.plan.macs[1] <= min(passed) * done.plan.macs[0]
    lines = done.record.content["trials"]
    assert {float(name.removeprefix("macs=")) for name, line in lines.items() if line["drop"]["at_most"] <= 3} == set(
        passed
    )


def test_a_drop_that_so_few_images_cannot_tell_is_refused_with_how_many_it_takes(trained: nn.Module) -> None:
    with pytest.raises(DataError, match=r"by 100 validation images.*at least 539; "):
        fp.compress(trained, X, evaluate=lambda model: right(model, 100), max_drop=0.5)
    with pytest.raises(ModelError, match="whether each is right, not one number"):
        fp.compress(trained, X, evaluate=lambda model: float(right(model).float().mean()), max_drop=5)


def test_one_number_is_enough_for_a_budget_and_nothing_is_trained_without_a_function(trained: nn.Module) -> None:
    done = fp.compress(trained, X, evaluate=lambda model: float(right(model).float().mean()), macs=0.5, rounds=[1])
    assert done.drop is None and 0 < done.after.accuracy <= 1
    ways = done.record.content["ways"].values()
    assert {way["criterion"] for way in ways} == {"l2", "fpgm"}  # the third one needs data


def test_an_interrupted_compression_goes_on_and_ends_the_same(trained: nn.Module, tmp_path: Path) -> None:
    def run(folder: Path, stop_after: int | None = None, **more: Any) -> Any:
        trainings: list[Round] = []
        evaluated: list[int] = []

        def train(small: nn.Module, told: Round) -> None:
            if stop_after is not None and len(trainings) == stop_after:
                raise KeyboardInterrupt
            trainings.append(told)
            trained_further(small, told)

        def evaluate(model: nn.Module) -> Tensor:
            evaluated.append(1)
            return right(model)

        found = fp.compress(
            trained,
            X,
            evaluate=evaluate,
            train=train,
            macs=0.4,
            criteria=["l2", "fpgm"],
            rounds=[3],
            out=folder,
            **more,
        )
        return found, len(trainings), len(evaluated)

    whole, _, _ = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop_after=2)
    with pytest.raises(OutputError, match="resume goes on with it"):
        run(tmp_path / "stopped")
    resumed, trainings, evaluated = run(tmp_path / "stopped", resume=True)
    assert (trainings, evaluated) == (1, 1)  # the third round, and how good it is: nothing else is done again
    for (name, one), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    _, trainings, evaluated = run(tmp_path / "stopped", resume=True)
    assert (trainings, evaluated) == (0, 0)
    with pytest.raises(OutputError, match=r"another compression \(criteria was"):
        fp.compress(
            trained, X, evaluate=right, macs=0.4, criteria=["l2"], rounds=[3], out=tmp_path / "stopped", resume=True
        )
    record = json.loads((tmp_path / "stopped" / "compress.json").read_text())
    assert record["seconds"] > 0 and record["trials"]["macs=0.4"]["macs"] == resumed.plan.macs[1]


def test_time_that_is_up_ends_the_search_and_is_told_to_the_trainings(trained: nn.Module) -> None:
    told: list[float | None] = []

    def train(small: nn.Module, this: Round) -> None:
        told.append(this.seconds)

    fp.compress(trained, X, evaluate=right, train=train, macs=0.5, criteria=["l2"], rounds=[2], hours=1)
    assert [0 < (seconds or 0) < 3600 for seconds in told] == [True, True] and (told[0] or 0) < (told[1] or 0) * 1.1
    done = fp.compress(
        trained, X, evaluate=right, train=trained_further, max_drop=30, criteria=["l2"], rounds=[1], hours=1e-6
    )
    assert done.record.content["sensitivity"] is None  # no time for a scan
    assert len(done.record.content["tried"]) <= 1


def test_a_budget_of_time_is_met_in_rounds_too(trained: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_macs(networks: Sequence[nn.Module], inputs: Any, turns: int = 1) -> list[Timing]:
        return [Timing((fp.measure(network, inputs).macs * 1e-9,) * turns) for network in networks]

    monkeypatch.setattr(latency_budget, "time_in_turns", by_macs)
    asked: dict[str, Any] = {"evaluate": right, "train": trained_further, "criteria": ["l2"], "rounds": [2]}
    done = fp.compress(trained, X, latency=0.6, **asked)
    assert 0.5 * done.plan.macs[0] < fp.measure(done.model, X).macs <= 0.6 * done.plan.macs[0]
    with pytest.raises(BudgetError, match="latency=1000ms is met by the model as it is"):
        fp.compress(trained, X, latency="1s", **asked)


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({}, BudgetError, "exactly one goal"),
        ({"macs": 0.5, "max_drop": 1}, BudgetError, "macs= and max_drop= were given"),
        ({"macs": 1.0}, BudgetError, "keeps everything"),
        ({"macs": 0.001}, UnreachableBudgetError, "macs=0.001"),
        ({"max_drop": -1}, BudgetError, "percentage points"),
        ({"macs": 0.5, "hours": 0}, BudgetError, "hours=0"),
        ({"macs": 0.5, "rounds": []}, fp.FlowpruneError, "rounds=[]"),
        ({"macs": 0.5, "criteria": ["nuclear_norm"]}, fp.FlowpruneError, "give batches="),
        ({"macs": 0.5, "evaluate": lambda model: torch.rand(3, 3)}, ModelError, "evaluate returned"),
        ({"macs": 0.5, "evaluate": lambda model: float("nan")}, ModelError, "nan"),
    ],
)
def test_what_cannot_be_is_one_line(
    trained: nn.Module, asked: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        fp.compress(trained, X, **{"evaluate": right, "rounds": [1], "criteria": ["l2"], **asked})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_widths_follow_what_the_groups_cost(trained: nn.Module) -> None:
    def row(name: str, losses: tuple[float, ...]) -> GroupSensitivity:
        points = tuple(CutPoint(n / 4, 4 * n, 0, 0, 90 - loss) for n, loss in zip((1, 2, 3), losses, strict=True))
        return GroupSensitivity((name,), (name,), 16, points)

    def widths(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[int, int]:
        found = Sensitivity(90, 0, 0, "L2", (0.25, 0.5, 0.75), (row("0", first), row("2", second)))
        small = fp.prune(trained, X, importance=fp.importance.L2(), macs=0.5, allocator=BySensitivity(found))
        assert fp.measure(small, X).macs <= 0.5 * fp.measure(trained, X).macs
        assert Sensitivity.from_dict(json.loads(json.dumps(found.as_dict()))) == found
        return small[0].out_features, small[2].out_features  # type: ignore[index, return-value]

    free, dear = (0.0, 0.0, 0.0), (5.0, 20.0, 60.0)
    assert widths(free, dear)[1] == 16 and widths(dear, free)[0] == 16
    alike = widths(dear, dear)
    assert min(alike) > 0 and max(alike) < 16
    # a loss that falls again is noise: as much as was lost with fewer gone
    assert widths((0.0, 9.0, 0.0), free)[0] >= np.ceil(16 * 0.5)
