"""The study asks for what chance chose, loses nothing when it is stopped, and names what is worse than chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowprune.methods.presets import REGISTRY


def finished(lost: dict[float, float], kinds: tuple[str, ...] = ("macs", "weights", "bytes")) -> dict[str, Any]:
    """What the cells that choose the share say, where chance loses so many points."""
    found: dict[str, Any] = {"unpruned-all-seed0": {"top1": 99.0}}
    return found | {f"chance-{k}={s:g}-seed0": {"top1": 99.0 - points} for k in kinds for s, points in lost.items()}


def test_the_share_is_the_first_at_which_chance_loses_enough_and_nothing_is_asked_before_it_is_known() -> None:
    from methods_on_digits.cells import cells_of, chosen_share, the_study

    study = the_study()
    assert study["shares"][:3] == [0.5, 0.3, 0.2] and study["lost"] == 5
    names = [cell.name for cell in cells_of(study, {})]
    assert names[:4] == [
        "unpruned-all-seed0",
        "chance-macs=0.5-seed0",
        "chance-weights=0.5-seed0",
        "chance-bytes=0.5-seed0",
    ]
    begun = finished({0.5: 1.0, 0.3: 4.9})
    assert chosen_share(study, begun, "macs") is None
    assert "chance-macs=0.2-seed0" in {cell.name for cell in cells_of(study, begun)}
    done = finished({0.5: 1.0, 0.3: 4.9, 0.2: 5.0})
    assert {chosen_share(study, done, kind) for kind in ("macs", "weights", "bytes")} == {0.2}
    assert len({cell.share for cell in cells_of(study, begun) if cell.method == "eap"} - {None}) == 0


def test_every_preset_has_a_cell_for_every_seed_and_every_recipe_is_one() -> None:
    from methods_on_digits.cells import AS_CONTROLS, cells_of, recipe_of, the_study

    study = the_study()
    cells = list(dict.fromkeys(cells_of(study, finished({0.5: 9.0}))))
    for name in set(REGISTRY) - set(AS_CONTROLS):
        assert [cell.seed for cell in cells if cell.method == name] == study["seeds"], name
    for cell in cells:
        if cell.seed == study["seeds"][-1]:
            (method,) = (recipe := recipe_of(study, cell)).methods
            seeds = {p.training.seed for p in recipe.phases_of(method) if getattr(p, "training", None) is not None}
            assert seeds == {cell.seed}, cell.name
            assert "$" not in recipe.model_dump_json(), cell.name


def test_a_finished_cell_is_not_open_until_its_recipe_is_another(tmp_path: Path) -> None:
    from methods_on_digits.cells import Cell, recipe_of, the_study
    from methods_on_digits.run import open_cells

    study, cell = the_study(), Cell("unpruned", "all", None, 0)
    assert open_cells(study, tmp_path, ["unpruned"])[0] == cell
    result = {"method": "unpruned", "top1": 99.0, "recipe": recipe_of(study, cell).model_dump(mode="json")}
    (tmp_path / f"{cell.name}.json").write_text(json.dumps(result))
    assert [one.seed for one in open_cells(study, tmp_path, ["unpruned"])] == study["seeds"][1:]
    assert open_cells({**study, "epochs": 1}, tmp_path, ["unpruned"])[0] == cell


def test_a_stage_that_two_cells_begin_with_has_one_name() -> None:
    from methods_on_digits.cells import Cell, recipe_of, the_study
    from methods_on_digits.run import _digest

    from flowprune.studies.pipeline.course import course_of

    study = the_study()

    def names(method: str, share: float, seed: int = 0) -> list[str]:
        recipe = recipe_of(study, Cell(method, "macs", share, seed))
        return [_digest(recipe, stop) for stop in course_of(recipe.phases_of(recipe.methods[0]))]

    chance, other, eap = names("chance", 0.5), names("chance", 0.3), names("eap", 0.5)
    assert chance[0] == other[0] == eap[0] != names("chance", 0.5, seed=1)[0]
    assert len({*chance, *other, *eap}) == 1 + 2 + 2 + 2


@pytest.mark.parametrize(("method", "worse"), [([90.0, 91.0, 92.0], True), ([94.0, 97.0, 97.0], False)])
def test_worse_than_chance_is_said_beyond_two_standard_errors(method: list[float], worse: bool) -> None:
    from methods_on_digits.page import difference

    said = difference(method, [97.0, 98.0, 97.5])
    assert ("worse" in said) == worse and said.startswith("-")


def test_the_page_has_controls_first_and_says_what_stands_apart() -> None:
    from methods_on_digits.cells import the_study
    from methods_on_digits.page import page

    def cell(method: str, top1: float, **other: Any) -> dict[str, Any]:
        dense = {"params": 100, "macs": 1000, "bytes": 400}
        cost = {"nonzero": 20, "effective_macs": 200, "macs": 250, "bytes": 100, "time_share": 0.5}
        about = {"method": method, "kind": "macs", "share": 0.2, "seed": 0}
        return {**about, "top1": top1, "dense": dense, **cost, **other}

    results = [
        cell("unpruned", 99.0, kind="all", share=None, macs=1000, time_share=None),
        cell("chance", 90.0),
        cell("l1", 93.0),
        cell("eap", 95.0),
        {"method": "wgsef", "kind": "macs", "share": 0.2, "seed": 0, "refused": "keep=0.2 is less than it can"},
    ]
    text = page(the_study(), results)
    table = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[1] for row in table] == ["unpruned", "chance", "l1", "[eap](methods/eap.md)"]
    assert table[-1] == (
        "| macs 0.2 | [eap](methods/eap.md) | 1 of 3 | 95.0 | +5.0 | 20.0 % | 20.0 % | 75.0 % | 25.0 % | 0.50 |"
    )
    assert "- **wgsef** stands apart at macs 0.2: keep=0.2 is less than it can" in text
    assert "Points that chance lost at shares of the macs: 0.2: 9.0." in text
