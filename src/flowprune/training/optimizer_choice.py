"""Optimizers by name, torch's and timm's, and the options that each takes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from flowprune.errors import MissingLibraryError, RecipeError, UnknownNameError, one_line

TIMM = "timm:"
"""What the names of timm's optimizers begin with here, as those of its models do."""

OTHER_LOOPS = {
    "lbfgs": "it runs the model several times a step",
    "sparseadam": "it takes sparse gradients only",
    "muon": "it takes matrices only",
}
"""Optimizers of torch that a plain loop cannot step: name -> why."""

OWN_KEYS = ("lr", "momentum", "nesterov", "weight_decay")
"""Arguments of optimizers that are settings of their own."""

Maker = Callable[..., torch.optim.Optimizer]


def maker(name: str) -> Maker:
    """The class of that name, of timm's with the arguments bound that its name stands for.

    Raises:
        UnknownNameError: nothing has that name; the nearest name is suggested.
        RecipeError: it is none for this loop.
        MissingLibraryError: timm is not installed.
    """
    own = {
        kind.__name__.lower(): kind
        for kind in vars(torch.optim).values()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
    if name in OTHER_LOOPS:
        raise RecipeError(f"optimizer {name!r} does not fit this loop: {OTHER_LOOPS[name]}; choose another")
    if name in own:
        return own[name]
    known = [other for other in own if other not in OTHER_LOOPS]
    try:
        theirs: Any = importlib.import_module("timm.optim")
    except ModuleNotFoundError:
        if name.startswith(TIMM):
            raise MissingLibraryError(f"optimizer {name!r} needs timm: pip install 'flowprune[zoo]'") from None
        raise UnknownNameError("optimizer", name, known) from None
    of_timm = [
        f"{TIMM}{other}" for other in theirs.list_optimizers() if not theirs.get_optimizer_info(other).second_order
    ]
    if name not in of_timm:
        plain = [other for other in of_timm if other.removeprefix(TIMM) == name]
        raise UnknownNameError("optimizer", name, plain or [*known, *of_timm])
    made: Maker = theirs.get_optimizer_class(name.removeprefix(TIMM))
    return made


def arguments(
    name: str, options: Mapping[str, Any], *, lr: float, momentum: float, nesterov: bool, weight_decay: float
) -> dict[str, Any]:
    """What the optimizer is built with: the keys it has, and its own options.

    ``momentum`` and ``nesterov`` go to those that have such an argument, as SGD does.

    Raises:
        UnknownNameError: an option that it does not have.
        RecipeError: it has no weight decay, or the options are refused; what ``maker`` raises.
    """
    made = maker(name)
    bound = made.keywords if isinstance(made, partial) else {}
    parameters = inspect.signature(made.func if isinstance(made, partial) else made).parameters
    for option in options:
        if option in OWN_KEYS:
            raise RecipeError(f"{option} is a key of its own beside optimizer_options; set it there")
        if option not in parameters or option == "params":
            known = [known for known in parameters if known not in ("params", *OWN_KEYS)]
            raise UnknownNameError(f"option of the optimizer {name}", option, known)
    if weight_decay and "weight_decay" not in parameters:
        raise RecipeError(f"optimizer {name!r} has no weight decay; set weight_decay: 0")
    own = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    given = {key: value for key, value in own.items() if key in parameters and key not in bound}
    # YAML has lists only, and torch's optimizers keep what they are given in their states.
    return {**given, **{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}}


def checked(name: str, given: Mapping[str, Any], parameters: Any) -> torch.optim.Optimizer:
    """The optimizer of that name, built with these arguments.

    Raises:
        RecipeError: it refuses them.
    """
    try:
        return maker(name)(parameters, **given)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise RecipeError(f"optimizer {name!r} refuses what it is given ({one_line(error)})") from error
