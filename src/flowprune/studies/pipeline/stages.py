"""The stages of a run. Each leaves a model and a record; one that did is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from flowprune.artifacts import load, save
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.pruning import plan_as_asked, prune
from flowprune.studies.pipeline.cuts_in_steps import prune_with_training
from flowprune.studies.pipeline.job import Job, slug
from flowprune.studies.pipeline.measurement import flow_profile, measured
from flowprune.studies.pipeline.run_folder import RunFolder
from flowprune.studies.recipe import BudgetSection, NetworkSection
from flowprune.training import TrainingSettings, evaluate, train

Record = dict[str, Any]
Say = Callable[[str], None]
StageNames = Callable[[str, BudgetSection | None], str]
"""("dense", "pruned" or "finetuned", the budget or None) -> the name of the stage's files."""


def names_of_run(network: NetworkSection, method: str) -> StageNames:
    """How a run names the stages of one network trained by one method."""

    def name(stage: str, budget: BudgetSection | None) -> str:
        suffix = "pruned" if stage == "pruned" else None
        return slug(network.name, method, str(budget) if budget is not None else "dense", suffix)

    return name


@dataclass(frozen=True)
class Stages:
    """The stages of one network trained by one method.

    ``name`` says under which names their files lie: stages that are named alike are one, done once.

    A stage always begins with the model that the stage before it left on the disk, whether that was just now or before the
    run was killed: that is what makes a resumed run end as one that never was.
    """

    job: Job
    folder: RunFolder
    network: NetworkSection
    method: str
    name: StageNames
    progress: bool
    say: Say

    def dense(self) -> Record:
        """Train from the seed's starting weights, with the flow penalty or without."""
        return self._once("dense", None, self._train)

    def pruned(self, budget: BudgetSection) -> Record:
        """Cut the trained network to a budget."""
        return self._once("pruned", budget, lambda: self._prune(budget))

    def finetuned(self, budget: BudgetSection | None, settings: TrainingSettings) -> Record:
        """Train what was cut again, without any penalty; without a budget the dense model, as a control."""
        stage = "dense" if budget is None else "pruned"
        return self.trained(lambda: self._model_of(stage, budget), budget, settings)

    def trained(
        self, start: Callable[[], nn.Module], budget: BudgetSection | None, settings: TrainingSettings
    ) -> Record:
        """Train what ``start`` gives, without any penalty, in the place of what was cut."""
        return self._once("finetuned", budget, lambda: self._trained(start(), budget, settings))

    def _once(self, stage: str, budget: BudgetSection | None, work: Callable[[], tuple[nn.Module, Record]]) -> Record:
        name = self.name(stage, budget)
        title = f"{self.network.name} · {self.method} · {_VERBS[stage]}" + (f" ({budget})" if budget else "")
        record = self.folder.finished(name)
        if record is not None:
            self.say(f"{title}: done before")
            return record
        began = time.perf_counter()
        model, found = work()
        row = {
            "network": self.network.name,
            "method": self.method,
            "stage": stage,
            "budget": str(budget) if budget is not None else None,
            "top1": found.pop("top1"),
            **found.pop("extra", {}),
            **measured(model, self.job.example()),
        }
        dense = self.folder.finished(self.name("dense", None)) if budget is not None else None
        row["filters_removed"] = None if dense is None else dense["row"]["filters"] - row["filters"]
        record = {"row": row, **found, "seconds": time.perf_counter() - began}
        if self.folder.writes:
            save(model, self.folder.model(name), notes=self._notes(row["top1"]))
        self.folder.finish(name, record)
        removed = f", {row['filters_removed']} filters removed" if budget is not None else ""
        self.say(
            f"{title}: {row['top1']:.2f} % top-1, {row['dead_filters']} of {row['filters']} filters dead{removed} "
            f"({record['seconds']:.0f} s)"
        )
        return record

    def _train(self) -> tuple[nn.Module, Record]:
        recipe = self.job.recipe
        model = self.job.build(self.network)
        section = recipe.flow if self.method == "ffr" else None
        flow_options = None if section is None else section.options(recipe.training.epochs)
        by_macs = section is not None and section.target_macs is not None
        with FeatureFlow(model, **flow_options) if flow_options is not None else nullcontext() as flow:
            result = train(
                model,
                self.job.data,
                recipe.training,
                run_folder=self.folder.stage(self.name("dense", None)),
                regularizer=flow,
                macs_left=(lambda: self.job.macs_left(model)) if by_macs else None,
                resume=True,
                progress=self.progress,
                title=f"{self.network.name} {self.method}",
            )
            coefficients = None if flow is None else flow.coefficients
        return model, {
            "top1": result.top1,
            "extra": {"best_top1": result.best_top1},
            "history": result.history,
            "coefficients": coefficients,
            "flow": flow_profile(model, self.job.data),
        }

    def _prune(self, budget: BudgetSection) -> tuple[nn.Module, Record]:
        section = self.job.recipe.pruning
        assert section is not None
        model = self._model_of("dense", None)
        request = self.job.request(section, budget)
        if section.steps == 1:
            made = plan_as_asked(model, self.job.example(), request)
            small = prune(model, made)
        else:
            name = self.name("pruned", budget)
            small, made = prune_with_training(
                model,
                self.job.example(),
                request,
                steps=section.steps,
                settings=section.between or self.job.recipe.finetuning,
                data=self.job.data,
                run_folder=lambda step: self.folder.stage(f"{name}-step{step}"),
                title=f"{self.network.name} {self.method} {budget}",
                progress=self.progress,
            )
        return small, {
            "top1": evaluate(small, self.job.data).top1,
            "channels": [
                {"layer": layer.layer, "dense": layer.channels[0], "kept": layer.channels[1]} for layer in made.layers
            ],
            "plan": made.summary(),
        }

    def _trained(
        self, model: nn.Module, budget: BudgetSection | None, settings: TrainingSettings
    ) -> tuple[nn.Module, Record]:
        """Train a model without any penalty; the model and the record's beginning."""
        result = train(
            model,
            self.job.data,
            settings,
            run_folder=self.folder.stage(self.name("finetuned", budget)),
            resume=True,
            progress=self.progress,
            title=" ".join(filter(None, (self.network.name, self.method, str(budget or "")))),
        )
        return model, {"top1": result.top1, "extra": {"best_top1": result.best_top1}, "history": result.history}

    def _model_of(self, stage: str, budget: BudgetSection | None) -> nn.Module:
        path = self.folder.model(self.name(stage, budget))
        return load(path, model=self.job.build(self.network)).to(self.job.device)

    def _notes(self, top1: float) -> Record:
        data = self.job.recipe.data
        return {
            **self.job.data.notes(),
            "data": data.model_dump(mode="json", include={"name", "normalize", "size"}),
            "top1": top1,
        }


_VERBS = {"dense": "train", "pruned": "prune", "finetuned": "fine-tune"}
