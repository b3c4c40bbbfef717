"""The recipe of a comparison: what a run's recipe says, with a list of criteria and of seeds in place of one of each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import Field, model_validator

from flowprune.engine.allocation import KINDS
from flowprune.engine.signatures import Scope
from flowprune.methods.importance import REGISTRY
from flowprune.methods.presets import REGISTRY as PRESETS
from flowprune.studies.pipeline.job import slug
from flowprune.studies.preset_phases import phases_from
from flowprune.studies.recipe import Recipe
from flowprune.studies.recipe_file import checked_sections, override, read_sections
from flowprune.studies.sections import (
    BUDGETS,
    BudgetSection,
    DataSection,
    ImportanceSection,
    NetworkSection,
    PruningSection,
    Section,
)
from flowprune.training.settings import TrainingSettings

CONTROL, SCRATCH, DENSE = "control", "scratch", "dense"


class MethodSection(Section):
    """A criterion, or a preset, under the name it has in the tables. In the file, the name alone may stand for it; where both have
    it, the criterion's.

    Attributes:
        name: in tables, figures and file names; the criterion's or preset's if left out.
        importance: the criterion's registered name.
        options: keyword arguments of its constructor.
        scope: ranks globally or takes the same share everywhere, whatever the budgets say; None leaves it to them.
        preset: a system of the literature, which runs under budgets of its kind only, with the comparison's training and
            fine-tuning where its phases are these, and its published settings elsewhere.
        changes: of the preset's phases: {"1.training.epochs": 10}, the number of the phase first.
    """

    name: str
    importance: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    scope: Scope | None = None
    preset: str | None = None
    changes: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_both(self) -> MethodSection:
        if (self.importance is None) == (self.preset is None):
            raise ValueError(f"the method {self.name!r} is an importance or a preset; give one of them")
        if self.preset is not None and (self.options or self.scope is not None):
            raise ValueError(f"options and scope are of a criterion; write changes: for the preset {self.preset!r}")
        return self

    def criterion(self, seed: int) -> ImportanceSection:
        """The criterion of one seed: where chance has a part in it, and the recipe does not fix it, it is this seed's."""
        assert self.importance is not None
        takes_seed = "seed" in inspect.signature(REGISTRY[self.importance]).parameters
        drawn = {"seed": seed} if takes_seed and "seed" not in self.options else {}
        return ImportanceSection(name=self.importance, options={**self.options, **drawn})

    def scoped(self, budget: BudgetSection) -> BudgetSection:
        """The budget in this method's scope, if it has one."""
        return budget if self.scope is None else budget.model_copy(update={"scope": self.scope})


class ComparedPruning(PruningSection):
    """How what a criterion chooses is cut; the budgets may also be of masks and quantizers, for presets of their kinds."""

    kinds: ClassVar[tuple[str, ...]] = BUDGETS


class ScratchSection(Section):
    """The small architectures trained from new weights.

    Attributes:
        of: the methods whose architectures these are; the first method's if None.
        training: how; as long and in the way of ``finetuning`` if None.
    """

    of: list[str] | None = None
    training: TrainingSettings | None = None


class ComparisonRecipe(Section):
    """A whole comparison.

    Attributes:
        name: of the comparison, for people.
        network: the one model. With ``weights`` and ``training: {epochs: 0}`` it is the same for every seed, else it is trained
            once for every seed, and all methods of a seed start from that.
        data: the one data set. A subset is drawn by the first seed and stays.
        training: of the dense model; its ``seed`` is the comparison's.
        methods: the criteria and presets.
        seeds: of the dense training, the calibration images, criteria of chance, and fine-tuning.
        pruning: the budgets and how everything is cut, as in a run's recipe but for ``importance``.
        finetuning: of everything that was cut, and of the control; None compares without.
        control: whether an unpruned copy is fine-tuned beside the others.
        scratch: which architectures are trained from new weights; None for none.
        threads: as in a run's recipe.
    """

    name: str = "comparison"
    network: NetworkSection
    data: DataSection
    training: TrainingSettings = TrainingSettings(epochs=0)
    methods: list[MethodSection] = Field(min_length=1)
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    pruning: ComparedPruning
    finetuning: TrainingSettings | None = None
    control: bool = True
    scratch: ScratchSection | None = ScratchSection()
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        full = dict(content)
        if isinstance(full.get("network"), str):
            full["network"] = {"name": full["network"]}
        if isinstance(full.get("methods"), list):
            full["methods"] = [_full_method(one) for one in full["methods"]]
        return full

    @model_validator(mode="after")
    def _coherent(self) -> ComparisonRecipe:
        names = [method.name for method in self.methods]
        for name in names:
            if [slug(other) for other in names].count(slug(name)) > 1:
                raise ValueError(
                    f"two methods are named {name!r}, or differ in marks only; give one of them another name"
                )
            if name in (CONTROL, SCRATCH, DENSE) or name.startswith(f"{SCRATCH}-") or not name.strip():
                raise ValueError(f"{name!r} is no name for a method: tables use it for something else")
        if len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds are different whole numbers from 0 on, got {self.seeds}")
        if "importance" in self.pruning.model_fields_set:
            raise ValueError("pruning.importance: a comparison's criteria are listed under methods")
        if any(budget.kind == "threshold" for budget in self.pruning.budgets):
            raise ValueError("pruning.budgets: a threshold asks no criterion, so there is nothing to compare under it")
        budgets = [str(budget) for budget in self.pruning.budgets]
        if len(set(budgets)) != len(budgets):
            raise ValueError("pruning.budgets: a budget is listed twice; scopes of their own go with the methods")
        unknown = [name for name in (self.scratch.of or () if self.scratch is not None else ()) if name not in names]
        if unknown:
            raise ValueError(f"scratch.of: no method is named {unknown[0]!r}; there are {', '.join(names)}")
        if self.training.epochs == 0 and self.network.weights is None:
            raise ValueError("nothing would be trained: give network.weights, or training with epochs")
        return self

    @property
    def one_dense_model(self) -> bool:
        """Whether all seeds share it."""
        return self.training.epochs == 0

    @property
    def scratch_methods(self) -> list[MethodSection]:
        """Those whose architectures are trained from new weights, too."""
        if self.scratch is None or self.finetuning is None:
            return []
        criteria = [method for method in self.methods if method.preset is None]
        of = self.scratch.of if self.scratch.of is not None else [method.name for method in criteria[:1]]
        return [method for method in criteria if method.name in of]

    def run_recipe(self, seed: int, method: MethodSection | None, budget: BudgetSection | None) -> Recipe:
        """What one cell does, as the recipe of a run: the pipeline carries out both alike."""
        training = {**self.training.model_dump(), "seed": seed}
        tuned = None if self.finetuning is None else {**self.finetuning.model_dump(), "seed": seed}
        run: dict[str, Any] = {
            "name": self.name,
            "networks": [self.network],
            "data": self.data,
            "training": training,
            "methods": ["plain"],
            "finetuning": tuned,
            "threads": self.threads,
        }
        if method is None:
            return Recipe(**run)
        if method.preset is not None:
            own = {"phases": self._phases_of(method.preset, run, budget)}
            override(own, [f"phases.{key}={yaml.safe_dump(value)}" for key, value in method.changes.items()])
            return Recipe(**{**run, "methods": [method.name], "phases": {method.name: own["phases"]}})
        if budget is not None:
            chosen = {"budgets": [method.scoped(budget)], "importance": method.criterion(seed)}
            run["pruning"] = PruningSection(**{**_said(self.pruning), **chosen})
        return Recipe(**run)

    def _phases_of(self, preset: str, run: Mapping[str, Any], budget: BudgetSection | None) -> list[dict[str, Any]]:
        how = {key: value for key, value in _said(self.pruning).items() if key not in ("budgets", "importance")}
        kept = [] if budget is None else [budget.model_dump(exclude_none=True)]
        return phases_from(PRESETS[preset], {**run, "pruning": {**how, "budgets": kept}})

    def why_left_out(self, method: MethodSection, budget: BudgetSection | None) -> str | None:
        """Why a method does not run under a budget; None if it does. Without a budget, those run that cannot be asked for one."""
        if method.preset is None:
            if budget is None or budget.kind in KINDS:
                return "a criterion needs a budget" if budget is None else None
            return f"a criterion cuts channels, it keeps no {budget.kind}"
        preset = PRESETS[method.preset]
        first = next((phase for phase in preset.phases if phase["phase"] == "train"), {})
        if self.one_dense_model and (first.get("regularizers") or preset.phases[0]["phase"] != "train"):
            return "it acts while the network is trained from its start, and training.epochs is 0"
        if budget is None:
            return "it needs a budget" if preset.takes else None
        if budget.kind in preset.takes:
            return None
        return f"it can be asked for {', '.join(preset.takes)}" if preset.takes else "it keeps what it keeps"


def _said(pruning: PruningSection) -> dict[str, Any]:
    return {name: getattr(pruning, name) for name in PruningSection.model_fields}


def load_comparison_recipe(path: str | Path, overrides: Sequence[str] = ()) -> ComparisonRecipe:
    """Read the recipe of a comparison.

    Args:
        path: the YAML file.
        overrides: "section.key=value" each, the value in YAML; a number addresses a list ("methods.0.importance=l1").

    Raises:
        RecipeError: the file is missing or no YAML, a key is unknown (the nearest is suggested) or a value does not fit.
    """
    return read_sections(ComparisonRecipe, path, overrides)


def comparison_recipe(content: Mapping[str, Any]) -> ComparisonRecipe:
    """The recipe that a dictionary like the file's describes.

    Raises:
        RecipeError: as ``load_comparison_recipe``.
    """
    return checked_sections(ComparisonRecipe, dict(content), "the comparison's recipe")


def _full_method(short: Any) -> Any:
    if isinstance(short, str):
        return {"name": short, "preset" if short not in REGISTRY and short in PRESETS else "importance": short}
    if isinstance(short, Mapping) and "preset" in short:
        return {"name": short["preset"], **short}
    if isinstance(short, Mapping):
        known = {key: short[key] for key in ("name", "importance") if key in short}
        return {**dict.fromkeys(("name", "importance"), next(reversed(known.values()))), **short} if known else short
    return short
