"""The verb ``replace``: other modules in the places of some, and ``restore``, which puts plain ones back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from flowprune.engine.interfaces import Replacement
from flowprune.engine.signatures import Inputs
from flowprune.engine.steps.lineage import Lineage, Step, attach_lineage, lineage_of
from flowprune.engine.steps.trying import check_runs
from flowprune.errors import FlowpruneError, one_line
from flowprune.methods.replacements.in_model import matching, replace_modules, restorable, restore_modules
from flowprune.methods.replacements.registry import REGISTRY


def replace(
    model: nn.Module,
    inputs: Inputs,
    *,
    replacement: str | Replacement = "linear_expansion",
    names: Sequence[str] | None = None,
    **options: Any,
) -> nn.Module:
    """A new model with other modules in the places of some; ``model`` is untouched.

    ``flowprune.methods.replacements.restore`` puts plain modules back, with the functions that these then have.

    Args:
        model: any module.
        inputs: example inputs of its forward; the new model is run on them once.
        replacement: a name of ``fp.list_methods("replacements")``, or an object like those.
        names: dotted paths of the modules; every one that the replacement takes if None.
        **options: of the replacement (``expansion=4``).

    Raises:
        FlowpruneError: no module has one of the names or none can be replaced, an option is none that there is, or a module has
            masked weights, whose zeros the new one would not keep.
        ModelError: a module cannot be replaced, or the model does not run on ``inputs``.

    Example:
        >>> import torch, flowprune as fp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2))
        >>> wide = fp.replace(model, torch.zeros(1, 4), replacement="linear_expansion", expansion=2)
        >>> wide[0].core
        Linear(in_features=8, out_features=4, bias=False)
    """
    built, name = _known(replacement)
    in_model = getattr(built, "in_model", None)
    new: nn.Module
    done: list[tuple[list[str], dict[str, Any]]]
    try:
        if in_model is not None:
            new, done = in_model(model, inputs, names, **options)
        else:
            done = [(matching(model, built, names), options)]
            new = replace_modules(model, built, done[0][0], **options)
    except TypeError as error:
        raise FlowpruneError(f"the replacement {name} cannot take the options {options}: {one_line(error)}") from error
    lineage = without_replaced(lineage_of(model), [module for modules, _ in done for module in modules])
    for modules, own in done:
        lineage = lineage.with_step(Step("replace", {"replacement": name, "modules": modules, "options": own}))
    attach_lineage(new, lineage)
    check_runs(new, inputs)
    return new


def restore(model: nn.Module, *, replacement: str | Replacement = "linear_expansion") -> nn.Module:
    """A new model with plain modules where ``replacement`` put its own; ``model`` is untouched.

    Args:
        model: what ``fp.replace`` returned, or that trained or pruned since.
        replacement: the same as there.

    Raises:
        FlowpruneError: there is nothing that this replacement made.

    Example:
        >>> small = restore(fp.replace(small, inputs, replacement="linear_expansion"))
    """
    built, name = _known(replacement)
    made = restorable(model, built)
    if not made:
        raise FlowpruneError(f"this {type(model).__name__} has no module that {name} made, so nothing can be restored")
    new = restore_modules(model, built)
    lineage = lineage_of(model)
    last = lineage.steps[-1] if lineage.steps else None
    if last is not None and _is_that(last, name, made):  # nothing happened in between: as if it had never been
        attach_lineage(new, Lineage(lineage.builder, lineage.options, lineage.steps[:-1], lineage.masks))
        return new
    step = Step("replace", {"replacement": name, "modules": made, "options": {}, "restored": True})
    attach_lineage(new, lineage.with_step(step))
    return new


def without_replaced(lineage: Lineage, modules: Sequence[str]) -> Lineage:
    """The lineage without the masks of what is replaced, which must leave everything whole.

    Raises:
        FlowpruneError: one of them masks a weight.
    """
    inside = {
        name: mask
        for name, mask in lineage.masks.items()
        if any(not module or name.startswith(f"{module}.") for module in modules)
    }
    for name, mask in inside.items():
        if not mask.all():
            raise FlowpruneError(
                f"{name} has masked weights, whose zeros would not live on in another module; leave it out by names=, or mask later"
            )
    masks = {name: mask for name, mask in lineage.masks.items() if name not in inside}
    return Lineage(lineage.builder, lineage.options, lineage.steps, masks)


def _known(replacement: str | Replacement) -> tuple[Replacement, str]:
    """The replacement, and its name; that of its class, where it is not registered."""
    if isinstance(replacement, str):
        return REGISTRY.built(replacement, {}), replacement
    return replacement, REGISTRY.name_of(replacement) or type(replacement).__name__


def _is_that(step: Step, name: str, modules: Sequence[str]) -> bool:
    data: Mapping[str, Any] = step.data
    return (
        step.kind == "replace"
        and not data.get("restored")
        and data["replacement"] == name
        and sorted(data["modules"]) == sorted(modules)
    )
