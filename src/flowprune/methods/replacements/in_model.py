"""Replacements carried out in a whole model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from flowprune.engine.interfaces import Replacement
from flowprune.engine.steps.copying import copy_of
from flowprune.errors import FlowpruneError, ModelError


def replace_modules(
    model: nn.Module, replacement: Replacement, names: Sequence[str] | None = None, **options: Any
) -> nn.Module:
    """A copy of the model with other modules in the places of some.

    Args:
        model: left as it is.
        replacement: what to put there.
        names: dotted paths of the modules; every one that ``replacement`` matches if None. A module that stands in two places
            is replaced in both by one.
        options: of ``replacement.replace``.

    Raises:
        FlowpruneError: no module has one of the names, or none matches.
        ModelError: a module cannot be replaced, or shares a parameter with another one; the line names it.

    Example:
        >>> wide = replace_modules(small, LinearExpansion(), expansion=4)
        >>> small = restore_modules(wide, LinearExpansion())
    """
    chosen = matching(model, replacement, names)
    copied = copy_of(model)
    modules = dict(copied.named_modules(remove_duplicate=False))
    new: dict[nn.Module, nn.Module] = {}
    for name in chosen:
        module = modules[name]
        if module in new:
            continue
        _own_parameters(copied, name, module)
        try:
            new[module] = replacement.replace(module, **options)
        except ModelError as error:
            raise ModelError(f"{name or 'the model itself'}: {error}") from error
    return _put(copied, new)


def matching(model: nn.Module, replacement: Replacement, names: Sequence[str] | None = None) -> list[str]:
    """The dotted paths of the modules that ``replacement`` takes, or those that are named.

    Raises:
        FlowpruneError: no module has one of the names, or none matches.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names or ():
        if name not in modules:
            raise FlowpruneError(f"the model has no module {name!r}; its paths are those of named_modules()")
    chosen = list(names) if names is not None else [name for name, one in modules.items() if replacement.matches(one)]
    if not chosen:
        raise FlowpruneError(f"the model has no module that {type(replacement).__name__} can replace")
    return chosen


def restorable(model: nn.Module, replacement: Replacement) -> list[str]:
    """The dotted paths of the modules that ``replacement`` made."""
    return [
        name for name, module in model.named_modules(remove_duplicate=False) if replacement.restore(module) is not None
    ]


def restore_modules(model: nn.Module, replacement: Replacement) -> nn.Module:
    """A copy of the model with plain modules where ``replacement`` put its own; the model is left as it is."""
    copied = copy_of(model)
    plain = {module: replacement.restore(module) for module in copied.modules()}
    return _put(copied, {module: found for module, found in plain.items() if found is not None})


def _put(model: nn.Module, new: dict[nn.Module, nn.Module]) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in new:
                setattr(parent, name, new[child])
    return new.get(model, model)


def _own_parameters(model: nn.Module, name: str, module: nn.Module) -> None:
    own = {id(parameter) for parameter in module.parameters()}
    inside = set(module.modules())
    for other_name, other in model.named_modules():
        if other not in inside and any(id(parameter) in own for parameter in other._parameters.values()):
            raise ModelError(
                f"{name} shares a parameter with {other_name} and cannot be replaced alone; leave it out by names="
            )
