"""The toy experiment: the points are what they are called, exactly the lowest third leaves, and the page shows it."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from flowprune.cli import main
from flowprune.errors import UnknownNameError
from flowprune.studies.toy import experiment, toy_experiment
from flowprune.studies.toy.network import accuracy, trained
from flowprune.studies.toy.plane_points import NAMES, points

WIDTH = 48


def test_points_are_two_moons_two_circles_and_four_arms() -> None:
    for name, classes in zip(NAMES, (2, 2, 4), strict=True):
        data = points(name, 500, 0)
        assert data.x.shape == (500 * classes, 2) and torch.bincount(data.y).tolist() == [500] * classes
        assert data.x.mean(0).abs().max() < 0.1 and (data.x.std(0) - 1).abs().max() < 0.1
        assert not torch.equal(data.x, points(name, 500, 1).x) and torch.equal(data.x, points(name, 500, 0).x)
    circles = points("circles", 500, 0)
    inner, outer = (circles.x[circles.y == label].norm(dim=1).mean() for label in (1, 0))
    assert inner / outer == pytest.approx(0.3, abs=0.04)
    spiral = points("spiral", 2000, 0)
    arms = [spiral.x[spiral.y == label] for label in range(4)]
    # A quarter turn takes every arm onto the next one.
    turned = arms[0] @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert torch.allclose(turned.mean(0), arms[1].mean(0), atol=0.05)


def test_reference_points_are_equally_many_of_every_class() -> None:
    data = points("spiral", 100, 0)
    x, y = data.some(5, 3)
    assert x.shape == (20, 2) and torch.bincount(y).tolist() == [5] * 4
    assert len({tuple(point) for point in x.tolist()}) == 20
    assert not torch.equal(x, data.some(5, 4)[0])


@pytest.fixture
def little_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted, cut and repeated is so however much the networks have learned."""
    monkeypatch.setattr(experiment, "trained", functools.partial(trained, steps=60))


def test_the_networks_learn_the_points() -> None:
    for name in NAMES:
        assert accuracy(trained(points(name, 1000, 0), 96, 0), points(name, 250, 1)) > 95


def test_exactly_the_lowest_third_leaves_and_the_rest_decides_as_it_did(little_training: None) -> None:
    found = toy_experiment(seeds=1, samples=[3], criteria=["l2", "random"], width=WIDTH)
    assert (found.removed, found.units) == (WIDTH, 3 * WIDTH)
    for name in NAMES:
        train, test = points(name, 1000, 0), points(name, 250, 1)
        model = experiment.trained(train, WIDTH, 0)
        assert found.dense[name] == accuracy(model, test)
        # The definition, without surgery: norms over their layer's mean, the lowest third of all silenced.
        layers = [model[position] for position in (0, 2, 4)]
        norms = [layer.weight.norm(dim=1) for layer in layers]
        scores = torch.cat([norm / norm.mean() for norm in norms])
        gone = torch.zeros(3 * WIDTH, dtype=torch.bool)
        gone[scores.argsort()[:WIDTH]] = True
        with torch.no_grad():
            for layer, mask in zip(layers, gone.split(WIDTH), strict=True):
                layer.weight[mask], layer.bias[mask] = 0, 0
        assert found.after[name]["l2"] == {0: [pytest.approx(accuracy(model, test), abs=0.21)]}
        regions = found.regions[name]
        assert found.kept[name]["l2"] == pytest.approx((regions["l2"] == regions["dense"]).float().mean().item())


def test_every_seed_and_number_of_points_counts_once_and_repeats_itself(little_training: None) -> None:
    asked = {
        "seeds": 2,
        "samples": [1, 4],
        "criteria": ["nuclear_norm", "random", "l1", "batch_norm_gamma"],
        "width": 24,
    }
    found, again = toy_experiment(**asked), toy_experiment(**asked)  # type: ignore[arg-type]
    assert found.after == again.after and found.dense == again.dense
    for by_criterion in found.after.values():
        counts = {name: {count: len(values) for count, values in of.items()} for name, of in by_criterion.items()}
        assert counts == {"nuclear_norm": {1: 2, 4: 2}, "random": {0: 2}, "l1": {0: 1}}
    assert set(found.left_out) == {"batch_norm_gamma"}
    assert len(found.rows()) == 3 * 4 and all(len(row) == len(found.headers()) for row in found.rows())
    with pytest.raises(UnknownNameError, match="did you mean 'nuclear_norm'"):
        toy_experiment(criteria=["nuclear_nrm"])


def test_the_command_leaves_page_picture_and_numbers(
    little_training: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "toy.html"
    arguments = ["toy", "--out", str(page), "--width", "24", "--seeds", "1", "--samples", "2"]
    assert main([*arguments, "--importance", "l2", "--importance", "nuclear_norm"]) == 0
    printed = capsys.readouterr().out
    numbers = json.loads((tmp_path / "toy.json").read_text())
    assert set(numbers["after"]) == set(NAMES) and set(numbers["after"]["moons"]) == {"l2", "nuclear_norm"}
    assert f"{numbers['after']['moons']['l2']['0'][0]:.1f}" in printed
    with Image.open(tmp_path / "toy.png") as drawn:
        assert drawn.width > 3 * 200 and drawn.height > 3 * 200 and len(drawn.getcolors(1 << 20) or []) > 8
    assert "data:image/png;base64," in page.read_text() and 'src="http' not in page.read_text()
    assert main([*arguments]) == 2 and "is there already" in capsys.readouterr().err
    assert main(["toy", "--out", str(tmp_path / "x.html"), "--samples", "1,none"]) == 2
    assert "--samples" in capsys.readouterr().err
    assert main(["toy", "--out", str(tmp_path / "x.html"), "--samples", "1,1001"]) == 2
    assert "from 1 to 1000" in capsys.readouterr().err
