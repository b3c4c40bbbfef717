"""The cells of a comparison: what is done once for every method, budget and seed, each resumable stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowprune.artifacts import read_header
from flowprune.methods.presets import REGISTRY as PRESETS
from flowprune.studies.comparison.comparison_recipe import CONTROL, DENSE, SCRATCH, ComparisonRecipe, MethodSection
from flowprune.studies.comparison.scratch import from_scratch
from flowprune.studies.phases import RecoverPhase, TrainPhase
from flowprune.studies.pipeline.course import Stop, course_of
from flowprune.studies.pipeline.job import slug
from flowprune.studies.pipeline.stages import Record, StageNames, Stages
from flowprune.studies.sections import BudgetSection, NetworkSection
from flowprune.training import TrainingSettings
from flowprune.training.locating import found_beside_data

_OTHER_WEIGHTS = 1_000_003
"""Added to the seed where weights must not be those the dense model started from: their kept slices would be a lottery ticket."""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        kind: "method", "control" or "scratch".
        seed: its seed.
        method, budget: the criterion and what is kept; for "scratch" those whose architecture it is, for "control" none.
    """

    kind: str
    seed: int
    method: MethodSection | None = None
    budget: BudgetSection | None = None

    @property
    def label(self) -> str:
        """The method's name in tables."""
        if self.kind == "control":
            return CONTROL
        assert self.method is not None
        return self.method.name if self.kind == "method" else f"{SCRATCH}-{self.method.name}"

    @property
    def name(self) -> str:
        """Of the cell's files."""
        return slug(self.label, None if self.budget is None else str(self.budget), f"seed{self.seed}")


def cells_of(recipe: ComparisonRecipe) -> Iterator[Cell]:
    """All cells, one seed after the other, so that a comparison cut short has whole seeds."""
    for seed in recipe.seeds:
        if recipe.control and recipe.finetuning is not None:
            yield Cell("control", seed)
        for budget in (None, *recipe.pruning.budgets):
            for method in recipe.methods:
                if recipe.why_left_out(method, budget) is None:
                    yield Cell("method", seed, method, budget)
            for method in recipe.scratch_methods:
                if recipe.why_left_out(method, budget) is None:
                    yield Cell("scratch", seed, method, budget)


def left_out(recipe: ComparisonRecipe) -> list[str]:
    """What is not compared, in words: methods under budgets that they cannot be asked for."""
    found = []
    for method in recipe.methods:
        alone = method.preset is not None and not PRESETS[method.preset].takes
        for budget in [None] if alone else recipe.pruning.budgets:
            reason = recipe.why_left_out(method, budget)
            if reason is not None:
                found.append(f"{method.name}{'' if budget is None else f' under {budget}'}: {reason}")
    return found


def located(network: NetworkSection, data_dir: str | Path | None) -> NetworkSection:
    """The network, whose weights may also lie in the data folder."""
    weights = None if network.weights is None else found_beside_data(network.weights, data_dir)
    return network.model_copy(update={"weights": weights})


def names_of_cell(
    recipe: ComparisonRecipe,
    seed: int,
    label: str,
    of: MethodSection | None = None,
    budget: BudgetSection | None = None,
) -> StageNames:
    """How a comparison names the stages of a cell; the dense model is that of its seed, shared by all methods.

    Args:
        recipe, seed, label: the comparison, and the cell's.
        of, budget: the cell's method, and what it is asked to keep.
    """

    def name(stage: str, budgets: str | None) -> str:
        if stage == "dense":
            return slug(DENSE, None if recipe.one_dense_model else f"seed{seed}")
        if of is not None and of.preset is not None:  # its trainings may depend on the budget that comes after them
            return slug(label, None if budget is None else str(budget), f"seed{seed}", budgets, stage)
        return slug(label, budgets, f"seed{seed}", None if stage == "finetuned" else stage)

    return name


def _from_new_weights(stages: Stages, seed: int, pruned: str) -> nn.Module:
    """The architecture of the model ``pruned``, with other random weights than those the dense model was trained from."""
    plans = read_header(stages.folder.model(pruned)).cuts()
    new = stages.network.model_copy(update={"weights": None})
    dense = stages.job.build(new, stages.job.recipe.training.seed + _OTHER_WEIGHTS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return from_scratch(dense, stages.network.name, plans)


def carried_out(cell: Cell, stages: Stages, recipe: ComparisonRecipe) -> list[Record]:
    """The records of a cell's stages, done now or before."""
    if cell.method is not None and cell.method.preset is not None:
        return _named(_of_preset(cell.method.name, stages), cell.label)
    phases = stages.job.recipe.phases_of("plain")
    if cell.kind == "control":
        assert recipe.finetuning is not None
        control = RecoverPhase(training=_seeded(recipe.finetuning, cell.seed))
        return _named([stages.done(stop) for stop in course_of([phases[0], control])], cell.label)
    course = list(course_of(phases))
    if cell.kind != "scratch":
        return _named([stages.done(stop) for stop in course], cell.label)
    assert recipe.scratch is not None and cell.method is not None
    settings = recipe.scratch.training or recipe.finetuning
    assert settings is not None
    trained = replace(course[-1], phase=RecoverPhase(training=_seeded(settings, cell.seed)))
    pruned = names_of_cell(recipe, cell.seed, cell.method.name)(course[1].stage, course[1].budgets)
    start = partial(_from_new_weights, stages, cell.seed, pruned)
    return _named([stages.done(course[0]), stages.done(trained, start)], cell.label)


def _of_preset(method: str, stages: Stages) -> list[Record]:
    """The shared dense model's record first; a preset that begins with that very training goes on from it."""
    run = stages.job.recipe
    (dense,) = course_of([TrainPhase(training=run.training)])
    records = [stages.done(dense)]
    phases = run.phases_of(method)
    shared = phases[0] == dense.phase
    course = [_own(stop, shared) for stop in course_of(phases)]
    return records + [stages.done(stop) for stop in course[1 if shared else 0 :]]


def _own(stop: Stop, shared: bool) -> Stop:
    """A stop whose dense network is the preset's own, where it does not begin with the shared one."""
    stage = stop.stage if shared or stop.stage != "dense" else "trained"
    return replace(stop, stage=stage, before=None if stop.before is None else _own(stop.before, shared))


def _named(records: list[Record], label: str) -> list[Record]:
    """The records with every row under the cell's name: the dense model is shared, its row stands in every cell's results."""

    def renamed(record: Record) -> Record:
        row: dict[str, Any] = {**record["row"], "method": label}
        return {**record, "row": row}

    return [renamed(record) for record in records]


def _seeded(settings: TrainingSettings, seed: int) -> TrainingSettings:
    return settings.model_copy(update={"seed": seed})
