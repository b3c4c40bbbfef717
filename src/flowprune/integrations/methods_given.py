"""What a user gives to somebody else's training loop, before there is a model: methods by name, or how they are built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from flowprune.engine.interfaces import Regularizer
from flowprune.errors import RecipeError
from flowprune.methods.regularizers import REGISTRY
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.methods.regularizers.strength.given_strength import strength_of

Methods = Mapping[str, Mapping[str, Any]] | Callable[[nn.Module], Regularizer | Sequence[Regularizer]]
"""Names of regularizers and their options, ``{"wgsef": {"inputs": images, "keep": 0.5}, "ffr": {"gradient": "5%"}}``, in the
order of their calls; or a function that builds one or several for the model it is given."""


def check_methods(methods: Methods) -> None:
    """Complain about what could not be built, before a training is set up.

    Raises:
        UnknownNameError: a name that no regularizer has.
        TypeError: an option that one does not have.
        RecipeError: no method, or a strength that is none.
    """
    if not isinstance(methods, Mapping):
        if not callable(methods):
            raise RecipeError(
                f'{methods!r} names no regularizers; give {{"tpp": {{...}}}}, or a function that builds them for a model'
            )
        return
    if not methods:
        raise RecipeError('no regularizer is named; give {"tpp": {...}}')
    for name, options in methods.items():
        made = REGISTRY[name]
        inspect.signature(made).bind(None, **options)
        if made is FeatureFlow:
            check_flow(options)


def check_flow(options: Mapping[str, Any]) -> None:
    """Complain about what ``FeatureFlow`` would not take.

    Raises:
        TypeError: for an argument it does not have.
        RecipeError: for a strength that is none.
    """
    inspect.signature(FeatureFlow).bind(None, **options)
    for name in ("gradient", "curvature"):
        strength_of(options.get(name), name)


def built(model: nn.Module, methods: Methods, epochs: int | None) -> list[Regularizer]:
    """The methods, built for the model; where one of them fails nothing is left of the others.

    Raises:
        FlowpruneError: what they raise.
    """
    if not isinstance(methods, Mapping):
        given = methods(model)
        return [given] if isinstance(given, Regularizer) else list(given)
    done: list[Regularizer] = []
    try:
        for name, options in methods.items():
            made = REGISTRY[name]
            done.append(made(model, **(_with_epochs(options, epochs) if made is FeatureFlow else options)))
    except BaseException:
        for one in done:
            one.close()
        raise
    return done


def _with_epochs(options: Mapping[str, Any], epochs: int | None) -> dict[str, Any]:
    # Only where somebody asks for the epochs: a training that is made longer could not be resumed otherwise.
    steered = any(options.get(name) is not None for name in ("target_dead", "target_macs"))
    wanted = steered or options.get("schedule", "constant") != "constant"
    return {**options, "epochs": epochs} if wanted and options.get("epochs") is None else dict(options)
