"""The verb: give a small network back what its cut has cost, without training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from flowprune.engine.allocation import Plan
from flowprune.engine.interfaces import Recovery
from flowprune.errors import DataError, FlowpruneError, ModelError
from flowprune.methods.recovery.registry import REGISTRY

Model = TypeVar("Model", bound=nn.Module)
Asked = str | Recovery


def recover(
    small: nn.Module,
    dense: nn.Module,
    plan: Plan,
    batches: Iterable[Any] = (),
    *,
    recovery: Asked | Sequence[Asked] = "least_squares",
) -> nn.Module:
    """A copy of ``small`` that is nearer to ``dense``, by calibration images and without training.

    Args:
        small: what ``prune(dense, plan)`` gave; left as it is.
        dense: the model it was made from.
        plan: the cut between the two.
        batches: calibration images, normalised as those of the training: tensors, (input, target) pairs or dictionaries of
            keyword inputs. Targets are not looked at.
        recovery: one, or several in this order: names of ``list_methods("recovery")``, or built with options.

    Raises:
        UnknownNameError: there is no such recovery.
        FlowpruneError: it acts during training, and so belongs into ``train``; or there are no batches.
        ModelError: the two models do not belong to the plan.
        Whatever the recovery raises.

    Example:
        >>> import torch, flowprune as fp
        >>> _ = torch.manual_seed(0)
        >>> dense = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> images = torch.randn(64, 4)
        >>> plan = fp.plan(dense, images, importance=fp.importance.L2(), channels=0.5)
        >>> small = fp.prune(dense, plan)
        >>> refitted = fp.recover(small, dense, plan, [images], recovery="least_squares")
        >>> lost = [float((model(images) - dense(images)).square().mean()) for model in (small, refitted)]
        >>> lost[1] < lost[0]
        True
    """
    asked = [recovery] if isinstance(recovery, (str, Recovery)) else list(recovery)
    chosen = [built(one) for one in asked]
    for one in chosen:
        if one.trains:
            raise FlowpruneError(
                f"{type(one).__name__} acts during training; hand it to train(regularizer=), prepared, instead of recover"
            )
    check_belonging(small, dense, plan)
    seen = list(batches)
    if not seen and any(one.needs_data for one in chosen):
        raise DataError("a recovery needs calibration images, and no batch came; is the generator used up?")
    small = copy.deepcopy(small)
    for one in chosen:
        one.prepare(small, dense, plan, seen)
        small = one.restored()
        one.close()
    return small


def built(recovery: Asked, options: Mapping[str, Any] | None = None) -> Recovery:
    """The recovery of a name, with options; one that is built already as it is.

    Raises:
        UnknownNameError: there is no such recovery.
        FlowpruneError: it takes no such option.
    """
    if not isinstance(recovery, str):
        return recovery
    make: Callable[..., Recovery] = REGISTRY[recovery]
    try:
        return make(**(options or {}))
    except TypeError as error:
        raise FlowpruneError(f"recovery {recovery!r}: {error}") from error


def check_belonging(small: nn.Module, dense: nn.Module, plan: Plan) -> None:
    """Raise a ``ModelError`` where a tensor has not the shape that the plan says; a branch it changed has tensors of its own."""
    left, whole = small.state_dict(keep_vars=True), dense.state_dict(keep_vars=True)
    for name, shape in plan.shapes.items():
        removed = plan.removed.get(name, {})
        cut = tuple(size - len(removed.get(dimension, ())) for dimension, size in enumerate(shape))
        if name in whole and tuple(whole[name].shape) != tuple(shape):
            raise ModelError(f"the plan is of another network: {name} is {list(whole[name].shape)}, not {list(shape)}")
        if name in left and tuple(left[name].shape) != cut:
            raise ModelError(
                f"the small network is not what the plan leaves: {name} is {list(left[name].shape)}, not {list(cut)}"
            )
    if not plan.branches and (missing := [name for name in plan.shapes if name not in whole or name not in left]):
        raise ModelError(f"the plan is of another network, which has a tensor {missing[0]}")
