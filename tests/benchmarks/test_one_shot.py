"""The one-shot benchmarks measure what their tables say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flowprune.methods.importance import REGISTRY
from flowprune.models import create
from flowprune.training import Data, evaluate, load_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits")


def disturbed() -> torch.nn.Module:
    """A network whose batch norms do something."""
    torch.manual_seed(0)
    model = create("resnet8", in_channels=1, width=8)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_(0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def test_the_folded_copy_is_right_as_often_as_the_model(digits: Data) -> None:
    from one_shot.run import test_batches as batches_of
    from one_shot.run import tested

    model = disturbed()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert tested(model, batches_of(digits)) == pytest.approx(evaluate(model, digits).top1, abs=0.21)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_every_registered_criterion_is_measured_at_every_budget(digits: Data) -> None:
    from one_shot.run import KEPT, criteria, is_drawn, measured
    from one_shot.run import test_batches as batches_of

    assert set(REGISTRY) <= {name for name, _ in criteria().values()}
    assert {name for name in REGISTRY if not is_drawn(name)} >= {"l1", "l2", "fpgm"} and is_drawn("random")
    model, batches = disturbed(), batches_of(digits)[:1]
    found = measured(model, digits, batches, "l2", {}, 0)
    assert [point["asked"] for point in found["points"]] == list(KEPT)
    dense = 0
    for point in found["points"]:
        dense = dense or int(point["macs"] / 0.9)
        assert 0.97 * point["asked"] < point["macs"] / dense < 1.03 * point["asked"] and point["filters_removed"] > 0


def test_rank_correlation_is_spearmans() -> None:
    from one_shot.stability import spearman

    stats = pytest.importorskip("scipy.stats", reason="scipy comes with scikit-learn")
    torch.manual_seed(0)
    first = torch.randn(200, dtype=torch.float64).mul(3).round()  # with ties
    second = first + torch.randn(200, dtype=torch.float64)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first.numpy(), second.numpy()).statistic)
    assert spearman(first, torch.ones(200)) == 0.0


def test_worse_images_are_what_they_are_called() -> None:
    from one_shot.stability import blurred

    images = torch.zeros(1, 3, 32, 32)
    images[:, 1, 16, 16] = 255
    soft = blurred(images, 1.0)
    assert soft.sum() == pytest.approx(255, rel=1e-3) and soft[:, [0, 2]].abs().max() == 0
    places = torch.arange(32.0) - 16
    spread = (soft[0, 1].sum(1) * places**2).sum() / soft[0, 1].sum()
    assert spread.item() == pytest.approx(1.0, abs=0.05)
    assert torch.allclose(blurred(torch.full((1, 3, 32, 32), 7.0), 2.0), torch.tensor(7.0), atol=1e-4)


def test_the_table_holds_means_and_deviations_in_order() -> None:
    from one_shot.page import accuracy_table, plot

    def draw(*tops: float) -> dict[str, Any]:
        points = [{"asked": a, "macs": int(1000 * a) - 1, "top1": t} for a, t in zip((0.9, 0.5), tops, strict=True)]
        return {"points": points}

    results = {
        "network": "tiny",
        "command": "python x",
        "precision": "bfloat16",
        "dense": {"top1": 90.0, "macs": 1000, "params": 10},
        "criteria": {
            "worse": {"draws": {"0": draw(50, 10), "1": draw(54, 20)}},
            "a<b": {"draws": {"0": draw(80, 30)}},
        },
    }
    lines = accuracy_table(results).splitlines()
    assert lines[0] == "| criterion | draws | 10 % fewer | 50 % fewer |"
    assert lines[2] == "| a<b | 1 | 80.00 | 30.00 |"
    assert lines[3] == "| worse | 2 | 52.00 ± 2.83 | 15.00 ± 7.07 |"
    assert "90.00 % at 1,000 MACs, tested in bfloat16." in lines[-1]
    drawn = plot(results)
    assert drawn.count("<polyline") == 2 and "a&lt;b" in drawn


def test_a_cell_recovers_one_cut_in_all_ways(digits: Data) -> None:
    from one_shot.recoveries import cells, criterion_of, measured
    from one_shot.recovery_tables import WAYS
    from one_shot.run import test_batches as batches_of

    assert len(set(cells(5))) == 75 and [cell[2] for cell in cells(2)] == 15 * [0] + 15 * [1]
    model = disturbed()
    found = measured(
        model, digits, batches_of(digits)[:1], criterion_of("l2", digits, 0), ("l2", 0.6, 0), {"ridge": 1e-3}
    )
    assert tuple(found["top1"]) == WAYS and len(found["errors"]) > 3
    assert all(after <= before for before, after in found["errors"].values())


def test_the_table_of_recoveries_says_what_is_missing(tmp_path: Path) -> None:
    import json

    from one_shot.recovery_tables import WAYS, recovery_table

    assert recovery_table(tmp_path) is None
    tried = [{"layers": "consumers", "ridge": 0.1, "top1": 60.0}]
    dense = {"top1": 90.0, "macs": 1000}
    choice = {"precision": "float32", "command": "python x", "network": "tiny", "images": [0, 50], "dense": dense}
    (tmp_path / "choice.json").write_text(json.dumps({**choice, "tried": tried, "chosen": tried[0]}))
    for draw, kept, top1 in ((0, 0.8, 50.0), (1, 0.8, 54.0), (0, 0.6, 40.0)):
        cell = {"criterion": "l2", "asked": kept, "test_images": [50, 100], "top1": dict.fromkeys(WAYS, top1)}
        (tmp_path / f"l2-{kept}-draw{draw}.json").write_text(json.dumps(cell))
    lines = (recovery_table(tmp_path) or "").splitlines()
    assert lines[0] == "| criterion | recovery | 20 % fewer | 40 % fewer |"
    assert lines[2] == "| l2 | none | 52.00 ± 2.83 (2) | 40.00 (1) |"
    assert lines[5] == "|  | least_squares+batch_norm | 52.00 ± 2.83 (2) | 40.00 (1) |"
    assert "images 50 to 99" in lines[-1] and "consumers 0.1: 60.00" in lines[-1]
    alone = {"dense": {"none": 90.0, "padded crops": 89.5}, "least_squares": {"none": 80.0, "padded crops": 81.0}}
    (tmp_path / "norms.json").write_text(json.dumps(alone))
    assert (recovery_table(tmp_path) or "").splitlines()[-2] == "| dense | 90.00 | 89.50 |"
