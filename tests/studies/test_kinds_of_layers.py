"""What every preset does with linear layers, grouped and depthwise convolutions and transformers is what its file states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks.kinds_of_layers import LAYERS, network
from torch import nn

from flowprune.engine.allocation.composition import cuts_between
from flowprune.engine.interfaces import Outcome
from flowprune.engine.planning.falling_short import attempts
from flowprune.engine.steps.lineage import lineage_of
from flowprune.errors import FlowpruneError
from flowprune.methods import names_before_import
from flowprune.methods.presets import REGISTRY
from flowprune.studies.phases import CutPhase, RecoverPhase, TrainPhase
from flowprune.studies.phases.working import Done, Work
from flowprune.studies.preset_phases import short_form
from flowprune.studies.recipe import Recipe
from flowprune.studies.sections import BudgetSection
from flowprune.training import Data, load_data


@pytest.fixture(scope="module")
def data() -> Data:
    """Sixteen digits of 8x8, to train on and to count hits on."""
    found = load_data("digits", size=8, subset=16)
    return replace(found, test=found.train)


def phases_of(name: str) -> Iterator[Any]:
    """The phases of a preset's short form, in which something is done that is its own: at most sixteen steps of training."""
    content = short_form(REGISTRY[name])
    for phase in content["phases"]:
        if phase["phase"] == "quantize":
            phase["training"] = None
            if phase.pop("budgets", None):
                phase["options"] = {"values": 4}
        elif phase["phase"] in ("train", "recover"):
            phase["training"] = {**phase.get("training", {}), "epochs": 2, "batch_size": 2, "lr": 0.001}
        elif "points" in phase.get("allocator_options", {}):
            phase["allocator_options"] = {"points": 8}
        elif "particles" in phase.get("allocator_options", {}):
            phase["allocator_options"] = {**phase["allocator_options"], "particles": 3}
    for phase in Recipe.model_validate(content).phases_of(name):
        if isinstance(phase, TrainPhase) and not phase.regularizers:
            continue
        if isinstance(phase, RecoverPhase) and not (phase.regularizers or phase.recoveries):
            continue
        if isinstance(phase, CutPhase) and not phase.by_outcome and phase.allocator is None:
            phase = phase.model_copy(update={"budgets": [BudgetSection(channels=0.5)]})
        for recovery in getattr(phase, "recoveries", ()):
            if "layers" in recovery.options:  # those of the short form's network
                recovery.options["layers"] = ["head"]
        yield phase


def named(outcome: Outcome) -> set[str]:
    """The weights of which a training decided something."""
    said = {name for name, filters in (outcome.leaves or {}).items() if len(filters)}
    said |= {name for name, worth in (outcome.scores or {}).items() if torch.isfinite(worth).any()}
    said |= {name for name, mask in (outcome.masks or {}).items() if not mask.all()}
    return said | set(outcome.bits or ())


def changed(model: nn.Module, since: int) -> set[str]:
    """The weights and modules that the steps of a model have changed."""
    lineage = lineage_of(model)
    found = {name for name, mask in lineage.masks.items() if not mask.all()}
    for step in lineage.steps[since:]:
        if step.kind == "cut":
            found |= {
                name for name, removed in step.data["removed"].items() if removed.get("0") and name.endswith("weight")
            }
        elif step.kind == "replace":
            found |= {f"{name}." for name in step.data["modules"]}
        elif step.kind == "quantize":
            found |= set(step.data["parameters"])
    return found


def acted_on(name: str, kind: str, data: Data, folder: Path) -> list[str] | str:
    """The layers that a preset acts on, in their order, or the line that refuses the network."""
    model = dense = network(kind)
    outcome: Outcome | None = None
    touched: set[str] = set()
    try:
        for number, phase in enumerate(phases_of(name)):
            if isinstance(phase, CutPhase):
                dense = model
            work = Work(
                *(data, torch.device("cpu"), 0, folder / str(number), name, False, outcome),
                whole=lambda small, dense=dense: (dense, cuts_between(dense, small)[0]),
            )
            before, (model, _, decided) = len(lineage_of(model).steps), carried_out(phase, model, work)
            if outcome is None:
                touched |= changed(model, before)
            if decided is not None:
                outcome = decided
                touched |= named(outcome)
            assert torch.isfinite(model.eval()(work.example())).all()
    except FlowpruneError as error:
        assert "\n" not in str(error)
        return str(error)
    return [layer for layer in LAYERS[kind] if any(layer in one.split(".") for one in touched)]


def carried_out(phase: Any, model: nn.Module, work: Work) -> Done:
    """What the phase leaves, to the first of its budgets."""
    with attempts():
        done: Done = phase.carried_out(model, work, next(iter(phase.targets)))
    return done


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", names_before_import("presets"))
def test_a_preset_acts_on_the_layers_that_its_file_states(name: str, kind: str, data: Data, tmp_path: Path) -> None:
    stated = REGISTRY[name].layers[kind]
    found = acted_on(name, kind, data, tmp_path)
    assert (found if isinstance(found, list) else "refused") == stated, found
