"""The survey of the zoo measures what it says, and does not say "works" of what does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
SMALL = "resnet8 32"  # one of the package's own, so that no other package is needed


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of ``benchmarks/zoo``; they call themselves ``zoo``."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import zoo.stages
    import zoo.subjects

    yield zoo
    for name in [name for name in sys.modules if name.partition(".")[0] == "zoo"]:
        del sys.modules[name]


def ask(zoo: Any, stage: str, line: str = SMALL) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    known = {"mode": "train", "classes": [10]}
    zoo.stages.STAGES[stage]("flowprune", zoo.subjects.Subject.of_line(line), known, records.append)
    return records[-1]


def test_a_model_that_works_is_said_to(zoo: Any) -> None:
    record = ask(zoo, "works")
    assert record["works"] and record["classes"] == [10]
    assert 0.2 < record["params_kept"] < 0.4 and 0.9 < record["prunable"] < 1


def test_a_model_is_asked_in_a_process_of_its_own(zoo: Any) -> None:
    from zoo.run import in_a_process

    record = in_a_process("flowprune", "works", {"mode": "train"}, zoo.subjects.Subject.of_line(SMALL), 60)
    assert record["works"] and "error" not in record


def test_the_phases_make_up_the_whole_time(zoo: Any) -> None:
    record = ask(zoo, "times")
    assert not record["phases_missing"], "the package has other names now: mend PHASES in benchmarks/zoo/phases.py"
    assert all(record["phases"][name] >= 0 for name in zoo.phases.NAMES)
    assert sum(record["phases"].values()) == pytest.approx(record["seconds_wall"])
    assert record["phases"]["trace"] > 0 and record["phases"]["certificate"] > 0
    assert record["memory_peak"] >= record["memory_before"] > 0


def test_the_package_is_not_watched_any_longer_than_it_is_asked(zoo: Any) -> None:
    from flowprune.engine.planning import coupled_model

    before = coupled_model.certify
    with zoo.phases.watching():
        assert coupled_model.certify is not before
    assert coupled_model.certify is before


def test_a_touched_source_does_not_pass(zoo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = zoo.flowprune.prune

    def prune(model: nn.Module, inputs: Any, classes: Any) -> Any:
        next(iter(model.buffers())).add_(1e-6)
        return honest(model, inputs, classes)

    monkeypatch.setattr(zoo.flowprune, "prune", prune)
    with pytest.raises(AssertionError, match="of the source, tensors, state changed"):
        ask(zoo, "works")


def test_random_numbers_drawn_do_not_pass(zoo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = zoo.flowprune.prune

    def prune(model: nn.Module, inputs: Any, classes: Any) -> Any:
        torch.rand(1)
        return honest(model, inputs, classes)

    monkeypatch.setattr(zoo.flowprune, "prune", prune)
    with pytest.raises(AssertionError, match="random generators changed"):
        ask(zoo, "works")


def test_another_output_shape_does_not_pass(zoo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = zoo.flowprune.prune

    def prune(model: nn.Module, inputs: Any, classes: Any) -> Any:
        pruned = honest(model, inputs, classes)
        return zoo.flowprune.Pruned(nn.Sequential(pruned.model, nn.AdaptiveAvgPool1d(9)), pruned.plan)

    monkeypatch.setattr(zoo.flowprune, "prune", prune)
    with pytest.raises(AssertionError, match="another shape"):
        ask(zoo, "works")


def test_an_interrupted_survey_goes_on_and_spoilt_clocks_are_taken_again(
    zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.records import Results

    def results() -> Any:
        return Results(tmp_path / "flowprune.json", "flowprune", ["a 1", "b 1"])

    first = results()
    first.put("a 1", "works", {"works": True, "params_kept": 0.5})
    first.put("a 1", "times", {"seconds": 1.0, "seconds_wall": 1.02})
    first.put("b 1", "works", {"works": True, "params_kept": 0.5})
    first.put("b 1", "times", {"seconds": 1.0, "seconds_wall": 3.0})
    again = results()
    assert again.has("a 1", "works") and again.has("a 1", "times") and not again.has("a 1", "export")
    assert not again.has("b 1", "times")
    monkeypatch.setattr("zoo.records.code_of", lambda tool: "another version")
    changed = results()
    assert not changed.has("a 1", "works") and not changed.has("a 1", "times")
    changed.put("a 1", "works", {"works": True, "params_kept": 0.4})
    assert "times" not in changed.models["a 1"]  # a clock of the old code is not kept beside the new verdict


def test_the_lists_hold_what_is_said_of_them(zoo: Any) -> None:
    listed, beyond = (zoo.subjects.read_list(ROOT / "benchmarks" / "zoo" / f"{name}.txt") for name in ("zoo", "beyond"))
    names, others = {subject.name for subject in listed}, {subject.name for subject in beyond}
    assert len(listed) == len(names) == 111 and len(beyond) == len(others) >= 60
    assert not names & others
    assert [zoo.subjects.Subject.of_line(subject.line) for subject in beyond] == beyond


def test_what_is_said_of_other_libraries_is_what_was_found(zoo: Any) -> None:
    from zoo.others_page import LIBRARIES, section
    from zoo.tables import Survey

    subjects = zoo.subjects.read_list(ROOT / "benchmarks" / "zoo" / "others.txt")
    assert {subject.name.partition(":")[0] for subject in subjects} == set(LIBRARIES)
    lines = ["zoo.from_ultralytics:one 160", "zoo.from_ultralytics:two 160", "zoo.from_transformers:three 224"]
    good, bad = {"works": True, "params_kept": 0.3, "reasons": {}}, {"works": False, "error": "it broke"}
    ours = Survey("flowprune", "1", {}, {line: {"works": good} for line in lines})
    rival = Survey("torch-pruning", "1", {}, {lines[0]: {"works": bad}, lines[1]: {"works": good}})
    twins = {lines[0]: {"verdict": "equal", "difference": 2e-16}, lines[1]: {"verdict": "differs", "difference": 0.5}}
    said = section(ours, rival, twins)
    assert "| Ultralytics | 2 | 2 | 2 | 0.30 | 1 of 2 | 1 of 2 |" in said
    assert "| Ultralytics one | 0.30 | 2e-16 | it broke |  |" in said
    assert "| Ultralytics two | 0.30 | differs | 0.30 |  |" in said
    assert section(Survey("flowprune", "", {}, {}), rival, twins) == ""
