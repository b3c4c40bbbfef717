"""The table of everything: every preset that is registered, at one cost, to the budget of its kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_evidence import TOY, carried_out, folders

from flowprune.methods.presets import REGISTRY


def test_every_preset_is_in_it_with_six_epochs_and_phases_that_a_recipe_takes() -> None:
    from everything.run import SETTING, rows

    found = {row.name: row for row in rows()}
    assert set(REGISTRY) - {"plain"} <= set(found)
    untrained = {name for name, row in found.items() if not any(phase.get("training") for phase in row.phases)}
    assert untrained == {"haste"}  # what only runs otherwise has nothing to spend epochs on
    for row in found.values():
        SETTING.recipe(0, [dict(phase) for phase in row.phases])
        spent = sum(cell.passes for cell in row.cells(0)) / 50_000
        assert spent == pytest.approx(0 if row.name in untrained else 6, abs=0.2), row.name
        plain = [phase for phase in row.phases if phase["phase"] == "recover"]
        assert all(phase["training"]["lr"] == 0.02 for phase in plain), row.name
    kept = {name: found[name].phases for name in ("l1", "rd", "ham", "wgsef")}
    assert kept["l1"][0]["budgets"] == [{"macs": 0.6}] and kept["rd"][0]["budgets"] == [{"weights": 0.2}]
    assert kept["ham"][-1]["budgets"] == [{"bytes": 0.125}]
    # Its constraint adds dense costs: a channel's MACs fall with those that feed it, so the root of a share of them.
    assert kept["wgsef"][0]["regularizers"][0]["options"]["keep"] == pytest.approx(0.6**0.5)


@pytest.mark.parametrize(
    ("lengths", "epochs"), [([200, 40], [5, 1]), ([564, 120], [5, 1]), ([160, 160], [3, 3]), ([1], [6]), ([], [])]
)
def test_epochs_are_shared_out_as_the_published_lengths_are(lengths: list[float], epochs: list[int]) -> None:
    from everything.adapted import shared_out

    assert shared_out(6, lengths) == epochs


def test_the_three_best_of_a_kind_by_the_images_that_choose_get_two_more_seeds() -> None:
    from everything.page import line
    from everything.run import best, cells, later, rows

    order = [row.name for row in rows() if row.kind == "structured"]
    known = carried_out(
        cells, lambda cell: 90.0 - order.index(cell.about["row"]) if cell.about["row"] in order else 80.0
    )
    assert [row.name for row in best("structured", known)] == order[:3] and best("structured", {}) == []
    assert f"{order[2]}-seed2" in {name.rpartition("-seed2")[0] + "-seed2" for name in known}
    assert not any(name.startswith(f"{order[3]}-seed1") for name in known)
    assert later({})[0].startswith("two more seeds of the best of kind structured") and later(known) == []
    missing = line(rows()[0], {})
    assert "not run yet" in missing


def test_a_mask_is_made_held_and_measured_and_what_it_cost_is_counted(tmp_path: Path) -> None:
    from everything.run import main

    small = [*TOY, "--set", "data.normalize=digits", "--set", "network.weights=null", *folders(tmp_path)]
    assert main([*small, "--only", "weights-by-magnitude-seed0-*"]) == 0
    results: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    end, masked = results["weights-by-magnitude-seed0-2-recover"], results["weights-by-magnitude-seed0-1-mask"]
    assert (
        end["nonzero"] < 0.3 * end["params"]
        and end["effective_macs"] < 0.4 * end["macs"]
        and end["macs"] == masked["macs"]
    )
    assert (end["passes"], masked["passes"]) == (6 * 64, 0)  # tests are no part of the cost
