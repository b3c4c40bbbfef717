"""An importance criterion from its name and options, with the data it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

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
    criterion: Importance = REGISTRY.built(name, options, batches)
    return criterion
