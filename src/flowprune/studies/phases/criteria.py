"""An importance criterion from its name and options, with the data it asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flowprune.errors import DataError, RecipeError, UnknownNameError
from flowprune.methods.importance import REGISTRY, Importance


def importance_from(
    name: str, options: Mapping[str, Any], batches: Callable[[], Iterable[Any]] | None = None
) -> Importance:
    """Build a criterion.

    Args:
        name: it is registered under.
        options: keyword arguments of its constructor.
        batches: gives training batches, (inputs, labels) pairs, anew at each call; only asked where the criterion says
            ``needs_data``.

    Raises:
        UnknownNameError: no criterion or option has this name.
        DataError: it needs data and none is given.
        RecipeError: an option has a value it cannot take.
    """
    criterion = REGISTRY[name]
    known = [
        parameter.name
        for parameter in inspect.signature(criterion).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and parameter.name != "batches"
    ]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(criterion).parameters.values())
    for option in options:
        if option not in known and not takes_any:
            raise UnknownNameError(f"option of importance {name}:", option, known)
    data: dict[str, Any] = {}
    if getattr(criterion, "needs_data", False):
        if batches is None:
            labels = " with labels" if getattr(criterion, "needs_labels", False) else ""
            raise DataError(f"importance {name} needs data{labels}: name a data set (--data)")
        data["batches"] = batches()
    try:
        return criterion(**data, **options)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"importance {name} cannot take the options {dict(options)}: {reason}") from error
