"""The cells of a comparison: what is done once for every method, budget and seed, each resumable stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowprune.artifacts import read_header
from flowprune.studies.comparison.comparison_recipe import CONTROL, DENSE, SCRATCH, ComparisonRecipe, MethodSection
from flowprune.studies.comparison.scratch import from_scratch
from flowprune.studies.pipeline.job import Job, slug
from flowprune.studies.pipeline.stages import Record, Stages
from flowprune.studies.recipe import BudgetSection, NetworkSection
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
        for budget in recipe.pruning.budgets:
            for method in recipe.methods:
                yield Cell("method", seed, method, budget)
            for method in recipe.scratch_methods:
                yield Cell("scratch", seed, method, budget)


@dataclass(frozen=True)
class CellJob(Job):
    """A run's job whose weights may also lie in the data folder.

    Attributes:
        data_dir: the data folder, as given.
        fresh: whether the network starts from new weights, whatever the recipe says.
    """

    data_dir: str | Path | None = None
    fresh: bool = False

    def with_new_weights(self) -> CellJob:
        """The job that starts from random weights, other ones than those the dense model was trained from."""
        training = self.recipe.training.model_copy(update={"seed": self.recipe.training.seed + _OTHER_WEIGHTS})
        return replace(self, recipe=self.recipe.model_copy(update={"training": training}), fresh=True)

    def build(self, network: NetworkSection) -> nn.Module:
        """See ``Job.build``."""
        weights = None if self.fresh or network.weights is None else found_beside_data(network.weights, self.data_dir)
        return super().build(network.model_copy(update={"weights": weights}))


@dataclass(frozen=True)
class CellStages(Stages):
    """The stages of one cell; the dense model is that of its seed, shared by all methods."""

    job: CellJob
    seed: int = 0
    one_dense_model: bool = False

    def name(self, stage: str, budget: BudgetSection | None) -> str:
        """Of a stage's files."""
        if stage == "dense":
            return slug(DENSE, None if self.one_dense_model else f"seed{self.seed}")
        suffix = "pruned" if stage == "pruned" else None
        return slug(self.method, None if budget is None else str(budget), f"seed{self.seed}", suffix)

    def control(self, settings: TrainingSettings) -> Record:
        """Fine-tune the dense model as everything else is."""
        return self._once("finetuned", None, lambda: self._trained(self._model_of("dense", None), None, settings))

    def scratch(self, budget: BudgetSection, of: str, settings: TrainingSettings) -> Record:
        """Train the architecture that the method ``of`` left, from new weights."""

        def work() -> tuple[nn.Module, Record]:
            source = replace(self, method=of)
            plans = read_header(self.folder.model(source.name("pruned", budget))).cuts()
            dense = self.job.with_new_weights().build(self.network)
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                small = from_scratch(dense, self.network.name, plans)
            return self._trained(small, budget, settings)

        return self._once("finetuned", budget, work)


def carried_out(cell: Cell, stages: CellStages, recipe: ComparisonRecipe) -> list[Record]:
    """The records of a cell's stages, done now or before."""
    dense = stages.dense()
    if cell.kind == "control":
        assert recipe.finetuning is not None
        return _named([dense, stages.control(_seeded(recipe.finetuning, cell.seed))], cell.label)
    assert cell.budget is not None and cell.method is not None
    if cell.kind == "scratch":
        assert recipe.scratch is not None
        settings = recipe.scratch.training or recipe.finetuning
        assert settings is not None
        done = stages.scratch(cell.budget, cell.method.name, _seeded(settings, cell.seed))
        return _named([dense, done], cell.label)
    budget = cell.method.scoped(cell.budget)
    records = [dense, stages.pruned(budget)]
    if recipe.finetuning is not None:
        records.append(stages.finetuned(budget, _seeded(recipe.finetuning, cell.seed)))
    return _named(records, cell.label)


def _named(records: list[Record], label: str) -> list[Record]:
    """The records with every row under the cell's name: the dense model is shared, its row stands in every cell's results."""

    def renamed(record: Record) -> Record:
        row: dict[str, Any] = {**record["row"], "method": label}
        return {**record, "row": row}

    return [renamed(record) for record in records]


def _seeded(settings: TrainingSettings, seed: int) -> TrainingSettings:
    return settings.model_copy(update={"seed": seed})
