"""Write docs/recipe-keys.md from the models that check a recipe: every key, its kind, its default, what it means.

python benchmarks/pages.py recipe_keys [--check]
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from written_pages import all_written, header

from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.models import create
from flowprune.pruning import plan
from flowprune.studies.comparison.comparison_recipe import ComparisonRecipe
from flowprune.studies.phases import CutPhase, MaskPhase, QuantizePhase, RecoverPhase, ReplacePhase, TrainPhase
from flowprune.studies.recipe import Recipe
from flowprune.studies.sections import (
    BudgetSection,
    DataSection,
    FlowSection,
    ImportanceSection,
    NetworkSection,
    PruningSection,
)
from flowprune.training import load_data
from flowprune.training.settings import Augmentation, TrainingSettings

PAGE = Path(__file__).resolve().parents[2] / "docs/recipe-keys.md"

SECTIONS: dict[str, type[BaseModel]] = {
    "A recipe": Recipe,
    "`network`": NetworkSection,
    "`data`": DataSection,
    "`training`": TrainingSettings,
    "`training.augmentation`": Augmentation,
    "`flow`": FlowSection,
    "`pruning`": PruningSection,
    "`pruning.importance`": ImportanceSection,
    "A budget": BudgetSection,
    "`phase: train`": TrainPhase,
    "`phase: mask`": MaskPhase,
    "`phase: replace`": ReplacePhase,
    "`phase: quantize`": QuantizePhase,
    "`phase: cut`": CutPhase,
    "`phase: recover`": RecoverPhase,
    "A comparison": ComparisonRecipe,
}
"""Heading -> the model of what stands there, in the order of the page."""

PLACES = {model: heading for heading, model in SECTIONS.items()}
PLACES |= dict.fromkeys((TrainPhase, MaskPhase, ReplacePhase, QuantizePhase, CutPhase, RecoverPhase), "a phase")
"""Model -> how the page calls what it checks."""

TAKEN_BY = {NetworkSection: create, DataSection: load_data, FlowSection: FeatureFlow, BudgetSection: plan}
"""Model -> what takes its keys as arguments, and says what they mean."""

SHOWN_ONCE = {CutPhase: PruningSection}
"""Model -> the one whose keys it takes and the page has shown already."""

HEAD = """# The keys of a recipe

`python benchmarks/pages.py recipe_keys` writes this page from the models that check a recipe. A key that is not here is refused,
and the nearest one is suggested. `flowprune run RECIPE --set section.key=value` changes one; the `recipe.yaml` of a run has all
of them, with the values it was run with. What a recipe is made of, with an example: [methods.md](methods.md).
"""


def said_in(text: str, heading: str) -> dict[str, str]:
    """Name -> what a part of a docstring says of it."""
    part = re.split(r"\n\n(?=\S)|\n(?=\S)", text.partition(f"{heading}:\n")[2])[0]
    found = re.findall(r"^    ([\w, *]+?): (.*?)(?=^    [\w*]|\Z)", part, re.DOTALL | re.MULTILINE)
    return {name.strip(" *"): " ".join(meaning.split()) for names, meaning in found for name in names.split(",")}


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Key -> what is said of it by what takes it, by the docstrings of the models below, and by the model's own."""
    found: dict[str, str] = {}
    if (taker := TAKEN_BY.get(model)) is not None:
        found |= said_in(inspect.getdoc(taker) or "", "Args")
    for one in reversed(model.__mro__):
        if issubclass(one, BaseModel):
            found |= said_in(inspect.cleandoc(one.__doc__ or ""), "Attributes")
    return {name: meaning for name, meaning in found.items() if not meaning.startswith("see ``flowprune.plan``")} | {
        name: said_in(inspect.getdoc(plan) or "", "Args").get(name, meaning)
        for name, meaning in found.items()
        if meaning.startswith("see ``flowprune.plan``")
    }


def kind_of(annotation: Any) -> str:
    """A type as people say it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(parts[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(kind_of, parts)))
    if origin is Literal:
        return " or ".join(f"`{json.dumps(one)}`" for one in parts)
    if origin is dict:
        return f"mapping of {kind_of(parts[1])}"
    if origin in (list, tuple):
        return f"list of {kind_of(parts[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return PLACES.get(annotation, "mapping")
    return {type(None): "null", str: "text", int: "whole number", float: "number", bool: "true or false"}.get(
        annotation, "anything"
    )


def default_of(field: Any) -> str:
    """What stands where nothing is said."""
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        changed = value.model_dump(mode="json", exclude_defaults=True)
        return f"`{json.dumps(changed)}`, else its own" if changed else "its own"
    return f"`{json.dumps(value)}`"


def section(title: str, model: type[BaseModel]) -> list[str]:
    """The table of one section."""
    said, text = meanings(model), inspect.cleandoc(model.__doc__ or "")
    base = SHOWN_ONCE.get(model)
    lines = [f"## {title}", "", " ".join(re.split(r"\n\n|Attributes:", text)[0].split()).replace("``", "`"), ""]
    if base is not None:
        lines += [f"Takes every key of {PLACES[base]}, and:", ""]
    lines += header(("key", "what", "if left out", "meaning"), 4)
    for name, field in model.model_fields.items():
        same = base is not None and repr(base.model_fields.get(name)) == repr(field)
        if same:
            continue
        meaning = said.get(name, "").replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{name}` | {kind_of(field.annotation)} | {default_of(field)} | {meaning} |")
    return [*lines, ""]


def main() -> int:
    text = "\n".join([HEAD, *(line for title, model in SECTIONS.items() for line in section(title, model))])
    return all_written({PAGE: text.rstrip() + "\n"})
