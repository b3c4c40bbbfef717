"""From a preset to a recipe: its short form on digits, or its published phases with a recipe's network, data and budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flowprune.errors import RecipeError
from flowprune.methods.presets import Preset
from flowprune.studies.recipe_file import read_content

HOLES: dict[str, Callable[[float], float]] = {
    "$keep": lambda keep: keep,
    "$cut": lambda keep: 1 - keep,
    "$root": lambda keep: float(keep**0.5),
    "$root_cut": lambda keep: float(1 - keep**0.5),
}
"""Holes in a preset's options: the share that the budget keeps, and that it takes away; and, for methods that count channels, or
costs that add up, the share of the channels: where every layer keeps s of them, s^2 of the MACs are left."""


def short_form(preset: Preset, keep: float | None = None) -> dict[str, Any]:
    """The content of a recipe that runs a preset on the embedded digits, in about a minute.

    Args:
        preset: the system.
        keep: the share that stands in the form's holes, of whatever its budgets are of; the form's own if None.

    Raises:
        RecipeError: a share is asked for, and the form has no hole: it keeps what it keeps.
    """
    content = {"name": preset.name, **read_content(None, embedded="short.yaml"), "methods": [preset.name]}
    own = dict(preset.short)
    usual = own.pop("keep", None)
    if keep is not None and usual is None:
        raise RecipeError(f"the short form of {preset.name} keeps what it keeps; leave the share out")
    if usual is not None:
        own = _with_share(own, usual if keep is None else keep)
    for key, value in own.items():
        content[key] = {**_section(content, key), **value} if isinstance(value, Mapping) else value
    return content


def _with_share(value: Any, keep: float) -> Any:
    """A part of a short form with numbers in its holes."""
    if isinstance(value, dict):
        return {key: _with_share(one, keep) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_share(one, keep) for one in value]
    return HOLES[value](keep) if _is_hole(value) else value


def with_method(content: Mapping[str, Any], preset: Preset) -> dict[str, Any]:
    """The content of a recipe with this method in the place of its own.

    Raises:
        RecipeError: as ``phases_from``.
    """
    phases = phases_from(preset, content)  # which say what the section ``pruning`` says
    return {**content, "methods": [preset.name], "phases": phases, "pruning": None}


def phases_from(preset: Preset, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The published phases of a preset, with what a recipe says in its sections.

    Keys that the recipe writes count: those of ``training`` in the first training, of ``pruning`` in the cuts (but for the
    criterion where the preset has one of its own), of ``finetuning`` in the recoveries; ``finetuning: null`` leaves these out.
    What neither says is as in the recipe's ``training``. ``budgets: null`` in the preset stands for the recipe's budgets.

    Args:
        preset: the system.
        content: of a recipe, as it was read.

    Raises:
        RecipeError: it says no budget, or one that the preset cannot be asked for, or several where the preset trains towards one.
    """
    budgets = _budgets(preset, content)
    found: list[dict[str, Any]] = []
    first = next((number for number, phase in enumerate(preset.phases) if phase.get("phase") == "train"), None)
    for number, phase in enumerate(preset.phases):
        full = dict(phase)
        if number == first:
            full["training"] = {**phase.get("training", {}), **_section(content, "training")}
        elif phase.get("phase") == "recover":
            if "finetuning" in content and content["finetuning"] is None:
                continue
            full["training"] = {**phase.get("training", {}), **_section(content, "finetuning")}
        elif phase.get("phase") == "cut":
            own = {"importance", "budgets"} & set(phase)
            full |= {key: value for key, value in _section(content, "pruning").items() if key not in own}
        if full.get("budgets", ()) is None:
            full["budgets"] = budgets
        found.append(_filled(full, preset, budgets))
    return found


def _budgets(preset: Preset, content: Mapping[str, Any]) -> list[Any]:
    """The budgets that the recipe's section ``pruning`` has; none where it has no such section."""
    budgets = _section(content, "pruning").get("budgets")
    needed = any(
        (phase.get("phase") == "cut" and "budgets" not in phase) or phase.get("budgets", 0) is None
        for phase in preset.phases
    )
    if not isinstance(budgets, list) or not budgets:
        if needed:
            example = {"weights": "{weights: 0.5}", "bytes": "{bytes: 0.1}"}.get(preset.takes[0], "{macs: 0.5}")
            raise RecipeError(
                f"the method {preset.name} must know what to keep: give the recipe a section pruning: {{budgets: [{example}]}}"
            )
        return []
    for budget in budgets:
        kinds = [kind for kind in budget if kind != "scope"] if isinstance(budget, Mapping) else []
        wrong = next((kind for kind in kinds if kind not in preset.takes), None)
        if wrong is not None:
            can = f"only for {', '.join(preset.takes)}" if preset.takes else "for none: it keeps what it keeps"
            raise RecipeError(f"the method {preset.name} cannot be asked for a budget of {wrong}, {can}")
    return budgets


def _filled(value: Any, preset: Preset, budgets: list[Any]) -> Any:
    """A phase with numbers in its holes."""
    if not _has_hole(value):
        return value
    shares = [share for budget in budgets for key, share in budget.items() if key != "scope"]
    if len(shares) != 1 or not isinstance(shares[0], float):
        raise RecipeError(
            f"the method {preset.name} trains towards one budget, a share such as {{macs: 0.5}}; leave one such in pruning.budgets"
        )
    return _with_share(value, shares[0])


def _has_hole(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return _is_hole(value) or any(_has_hole(one) for one in parts)


def _is_hole(value: Any) -> bool:
    return isinstance(value, str) and value in HOLES


def _section(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = content.get(name)
    return dict(section) if isinstance(section, Mapping) else {}
