"""The stages of a run. Each leaves a model and a record; one that did is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from flowprune.artifacts import load, read_header, save
from flowprune.engine.allocation import Plan
from flowprune.engine.allocation.composition import composed, cuts_between
from flowprune.engine.interfaces import Outcome
from flowprune.engine.measuring import dead_filters
from flowprune.errors import counted
from flowprune.studies.phases import CutPhase
from flowprune.studies.phases.outcome_file import bits_left, read_outcome, write_outcome
from flowprune.studies.phases.working import Done, Work
from flowprune.studies.pipeline.course import Stop
from flowprune.studies.pipeline.job import Job, slug
from flowprune.studies.pipeline.measurement import flow_profile, measured
from flowprune.studies.pipeline.run_folder import RunFolder
from flowprune.studies.sections import NetworkSection

Record = dict[str, Any]
Say = Callable[[str], None]
StageNames = Callable[[str, str | None], str]
"""("dense", "pruned", "finetuned" or another stage, its budgets in words or None) -> the name of the stage's files."""

_OUTCOME = "outcome.safetensors"


def names_of_run(network: NetworkSection, method: str) -> StageNames:
    """How a run names the stages of one network trained by one method."""

    def name(stage: str, budgets: str | None) -> str:
        suffix = None if stage == "finetuned" and budgets is not None else stage
        return slug(network.name, method, budgets, suffix)

    return name


@dataclass(frozen=True)
class Stages:
    """The stages of one network under one method.

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

    def done(self, stop: Stop, start: Callable[[], nn.Module] | None = None) -> Record:
        """The record of a stage, done now or before.

        Args:
            stop: which, of the method's course.
            start: gives the model it begins with; what the stop before it left, or the network itself, if None.
        """
        name = self.name(stop.stage, stop.budgets)
        title = f"{self.network.name} · {self.method} · {stop.phase.verb}"
        title += f" ({stop.budgets})" if stop.budgets else ""
        record = self.folder.finished(name)
        if record is not None:
            self.say(f"{title}: done before")
            return record
        began = time.perf_counter()
        model = self.model_before(stop) if start is None else start()
        done = stop.phase.carried_out(model, self._work(stop), stop.budget)
        record = self._record(stop, done)
        record["seconds"] = time.perf_counter() - began
        row = record["row"]
        if self.folder.writes:
            save(done.model, self.folder.model(name), notes=self._notes(row["top1"]))
            if done.outcome is not None:
                self.folder.stage(name).mkdir(parents=True, exist_ok=True)
                write_outcome(done.outcome, self.folder.stage(name) / _OUTCOME)
        self.folder.finish(name, record)
        removed = f", {counted(row['filters_removed'], 'filter')} removed" if row["filters_removed"] is not None else ""
        self.say(
            f"{title}: {row['top1']:.2f} % top-1, {row['dead_filters']} of {row['filters']} filters dead{removed} "
            f"({record['seconds']:.0f} s)"
        )
        return record

    def model_after(self, stop: Stop) -> nn.Module:
        """The model that a stage left, on the job's device."""
        path = self.folder.model(self.name(stop.stage, stop.budgets))
        dense = self.job.build(self.network)
        return load(path, model=dense, allow=stop.named_steps).to(self.job.device)

    def model_before(self, stop: Stop) -> nn.Module:
        """The model that a stage begins with: what the one before it left, or the network with the seed's starting weights."""
        return self.job.build(self.network) if stop.before is None else self.model_after(stop.before)

    def _work(self, stop: Stop) -> Work:
        uncut = stop.uncut
        return Work(
            data=self.job.data,
            device=self.job.device,
            seed=self.job.recipe.training.seed,
            folder=self.folder.stage(self.name(stop.stage, stop.budgets)),
            title=" ".join(filter(None, (self.network.name, self.method, stop.budgets))),
            progress=self.progress,
            outcome=self._outcome_before(stop),
            next_cut=stop.next_cut,
            whole=None if uncut is None else partial(self._whole, uncut),
        )

    def _whole(self, uncut: Stop, small: nn.Module) -> tuple[nn.Module, Plan]:
        """The network before it was cut, and what all cuts since took from it."""
        dense = self.model_after(uncut)
        made = cuts_between(dense, small)
        return dense, made[0] if len(made) == 1 else composed(made, f"{len(made)} cuts")

    def _outcome_before(self, stop: Stop) -> Outcome | None:
        """What the last of the trainings before it decided, of weights that have the same shapes still; bits live through cuts."""
        here, last_cut = stop.before, None
        while here is not None and (isinstance(here.phase, CutPhase) or not here.phase.changes_shape):
            found = read_outcome(self.folder.stage(self.name(here.stage, here.budgets)) / _OUTCOME)
            if found is not None:
                if last_cut is None:
                    return found
                if found.bits is None:
                    return None
                return Outcome(bits=bits_left(found.bits, self._plans_since(here, last_cut)))
            if last_cut is None and here.phase.changes_shape:
                last_cut = here
            here = here.before
        return None

    def _plans_since(self, before: Stop, last: Stop) -> list[Record]:
        """The cuts that were made after one stage up to another, as artifacts have them."""
        known, all_of_them = (
            read_header(self.folder.model(self.name(stop.stage, stop.budgets))).plans for stop in (before, last)
        )
        return [dict(plan) for plan in all_of_them[len(known) :]]

    def _record(self, stop: Stop, done: Done) -> Record:
        found = dict(done.found)
        row = {
            "network": self.network.name,
            "method": self.method,
            "stage": stop.stage,
            "budget": stop.budgets,
            "top1": found.pop("top1"),
            **found.pop("extra", {}),
            **measured(done.model, self.job.example()),
        }
        row["filters_removed"] = self._filters_at_first(stop) - row["filters"] if stop.is_smaller else None
        if stop.stage.startswith("dense"):
            found["flow"] = flow_profile(done.model, self.job.data)
        return {"row": row, **found}

    def _filters_at_first(self, stop: Stop) -> int:
        """The filters of the network before anything was cut."""
        first = stop
        while first.before is not None:
            first = first.before
        record = None if first.phase.changes_shape else self.folder.finished(self.name(first.stage, first.budgets))
        if record is not None:
            return int(record["row"]["filters"])
        return dead_filters(self.job.build(self.network), self.job.example()).filters

    def _notes(self, top1: float) -> Record:
        data = self.job.recipe.data
        return {
            **self.job.data.notes(),
            "data": data.model_dump(mode="json", include={"name", "normalize", "size"}),
            "top1": top1,
        }
