"""A recipe: everything a run does, as one typed, validated YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, model_validator

from flowprune.errors import FlowpruneError, UnknownNameError
from flowprune.methods.presets import REGISTRY as PRESETS
from flowprune.studies.phases import AnyPhase, CutPhase, Phase, RecoverPhase, TrainPhase
from flowprune.studies.phases.named_regularizers import RegularizerSection
from flowprune.studies.preset_phases import phases_from, short_form, with_method
from flowprune.studies.recipe_file import checked_sections, override, read_content, read_sections, where_of
from flowprune.studies.sections import DataSection, FlowSection, NetworkSection, PruningSection, Section
from flowprune.training.settings import TrainingSettings

SHORT = ("plain", "ffr")
"""The methods whose phases the sections ``training``, ``flow``, ``pruning`` and ``finetuning`` say."""

UNNAMED = "phases"
"""What a method is called whose phases are given without a name."""


class Recipe(Section):
    """A whole run.

    In the file, ``network:`` may stand for a list of one, and a name alone for a network without options. Without
    ``methods``, a recipe with a ``flow`` section trains with it ("ffr") and one without trains plainly ("plain").
    Several methods are each trained from the same seed.

    What a method does is a list of phases. The sections ``training``, ``flow``, ``pruning`` and ``finetuning`` are the short
    form of those of "plain" and "ffr": train, cut, recover. Any other list stands under ``phases``, in order::

        methods: [pushed]
        training: {batch_size: 32, augmentation: null}
        phases:
          - {phase: train, training: {epochs: 20}}
          - {phase: train, training: {epochs: 10, lr: 0.001}, regularizers: [{name: tpp, options: {ratio: 0.5}}]}
          - {phase: cut, budgets: [{threshold: 1.0e-6}]}
          - {phase: recover, training: {epochs: 5, lr: 0.01}}

    Attributes:
        name: of the run, for people.
        networks: what is trained, one after the other.
        data: on what.
        training: how.
        flow: the penalty of the method "ffr".
        methods: "plain", "ffr", those that ``phases`` names, and presets (``flowprune methods``), whose published
            settings then stand where the recipe has none.
        pruning: what is cut afterwards; None trains only.
        finetuning: how what was cut is trained again; None leaves it out.
        phases: name of a method -> its phases; in the file a list alone is that of the one method named, or of "phases". What a
            phase's ``training`` leaves out is as in ``training``, in a recovery as in ``finetuning``, if there is one.
        threads: CPU threads for torch; None leaves torch's own choice. Small networks are fastest with 1.
    """

    name: str = "run"
    networks: list[NetworkSection] = Field(min_length=1)
    data: DataSection
    training: TrainingSettings = TrainingSettings()
    flow: FlowSection | None = None
    methods: list[str] = Field(min_length=1)
    pruning: PruningSection | None = None
    finetuning: TrainingSettings | None = None
    phases: dict[str, list[AnyPhase]] | None = None
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        full = dict(content)
        if "network" in full:
            if "networks" in full:
                raise ValueError("give network or networks, not both")
            full["networks"] = [full.pop("network")]
        if isinstance(full.get("networks"), list):
            full["networks"] = [{"name": one} if isinstance(one, str) else one for one in full["networks"]]
        return _with_phases(full)

    @model_validator(mode="after")
    def _coherent(self) -> Recipe:
        if "ffr" in self.methods and self.flow is None and "ffr" not in (self.phases or {}):
            raise ValueError("the method ffr needs a flow section")
        if self.flow is not None and self.flow.by_epochs and self.training.epochs < 1:
            raise ValueError("a schedule or target in the flow section needs at least 1 in training.epochs")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("a method is listed twice")
        own = self.phases or {}
        for number, method in enumerate(self.methods):
            if method not in SHORT and method not in own:
                unknown = UnknownNameError("method", method, {*SHORT, *own, *PRESETS})
                raise ValueError(f"methods.{number}: {unknown}")
        for method, phases in own.items():
            if method not in self.methods:
                raise ValueError(f"phases: {method!r} is not among the methods")
            if not phases:
                raise ValueError(f"phases: {method!r} has none")
            for number, phase in enumerate(phases):
                before = [
                    one for one in phases[:number] if isinstance(one, TrainPhase | RecoverPhase) and one.regularizers
                ]
                asks = isinstance(phase, CutPhase) and phase.by_outcome and phase.decided_by is None
                if asks and not before:
                    raise ValueError(
                        f"phases.{method}.{number}: no training before this cut has a regularizer that could decide what leaves; "
                        "give the cut budgets and an importance"
                    )
        labels = [network.name for network in self.networks]
        if len(set(labels)) != len(labels):
            raise ValueError("a network is listed twice")
        return self

    def phases_of(self, method: str) -> list[Phase]:
        """What is done to every network under the name of a method, in order."""
        if self.phases is not None and method in self.phases:
            return list(self.phases[method])
        flow = self.flow if method == "ffr" else None
        acting = [] if flow is None else [RegularizerSection(name="ffr", options=flow.model_dump())]
        found: list[Phase] = [TrainPhase(training=self.training, regularizers=acting)]
        if self.pruning is not None:
            said = {name: getattr(self.pruning, name) for name in type(self.pruning).model_fields}
            found.append(CutPhase(**{**said, "between": self.pruning.between or self.finetuning}))
            if self.finetuning is not None:
                found.append(RecoverPhase(training=self.finetuning))
        return found


def _with_phases(full: dict[str, Any]) -> dict[str, Any]:
    """The content of a recipe with its phases by method, each with its whole training."""
    phases = full.get("phases")
    if isinstance(phases, list):
        named = full.get("methods")
        name = named[0] if isinstance(named, list) and len(named) == 1 else UNNAMED
        phases = {name: phases}
    if not isinstance(phases, Mapping):
        full.setdefault("methods", ["plain"] if full.get("flow") is None else ["ffr"])
        phases = {}
    full.setdefault("methods", list(phases))
    named = full["methods"] if isinstance(full["methods"], list) else []
    presets = [one for one in named if isinstance(one, str) and one not in (*SHORT, *phases) and one in PRESETS]
    phases = {**phases, **{one: _published(one, full) for one in presets}}
    if not phases:
        return full
    full["phases"] = {
        name: [_filled(one, full) for one in own] if isinstance(own, list) else own for name, own in phases.items()
    }
    if set(named) <= set(phases):
        if presets:
            full["pruning"] = None  # their phases say it
        elif full.get("pruning") is not None:
            raise ValueError("pruning: every method has phases of its own; the budgets belong into their cuts")
        training = full.get("training")
        if training is None or isinstance(training, Mapping):
            full["training"] = {"epochs": 0, **(training or {})}  # nothing trains by it: it is what the phases share
    return full


def _published(method: str, full: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        return phases_from(PRESETS[method], full)
    except FlowpruneError as error:
        raise ValueError(str(error)) from error


def _filled(phase: Any, full: Mapping[str, Any]) -> Any:
    """A phase with what its training leaves out as the recipe's sections have it."""
    if not isinstance(phase, Mapping):
        return phase
    if phase.get("phase") == "cut":
        return {"between": full.get("finetuning"), **phase}
    if phase.get("phase") not in ("train", "recover") and phase.get("training") is None:
        return phase
    sections = [full.get("training"), None if phase["phase"] == "train" else full.get("finetuning")]
    said = [section for section in (*sections, phase.get("training")) if isinstance(section, Mapping)]
    return {**phase, "training": {key: value for section in said for key, value in section.items()}}


def load_recipe(path: str | Path | None = None, overrides: Sequence[str] = (), method: str | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: the YAML file; the embedded demonstration on digits if None.
        overrides: "section.key=value" each, the value in YAML; a number addresses a list ("networks.0.name=resnet20").
        method: a preset to run in the place of the recipe's own methods, with its published settings where the recipe has
            none; with ``path`` None, the preset's short form on digits. "phases.0.training.epochs=3" changes one of its phases.

    Raises:
        RecipeError: the file is missing or no YAML, a key is unknown (the nearest is suggested) or a value does not
            fit.
        UnknownNameError: there is no such method.

    Example:
        >>> import flowprune as fp
        >>> recipe = fp.load_recipe(overrides=["training.epochs=3", "methods=[ffr]"])
        >>> recipe.name, recipe.training.epochs, recipe.methods
        ('digits', 3, ['ffr'])
    """
    if method is None:
        return read_sections(Recipe, path, overrides, short_keys=["network"])
    preset = PRESETS[method]
    late = [one for one in overrides if one.lstrip().startswith("phases")]
    content = short_form(preset) if path is None else read_content(path)
    override(content, [one for one in overrides if one not in late])
    if path is not None:
        content = with_method(content, preset)
    override(content, late)
    where = f"the short form of {method}" if path is None else where_of(path)
    return checked_sections(Recipe, content, where, short_keys=["network"])


def dump_recipe(recipe: BaseModel, path: str | Path | None = None) -> str:
    """The recipe as run, every default written out, as YAML; also into the file ``path``. It loads as the same
    recipe.
    """
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
