"""Cut every class of coupled groups alone, by ever more, and evaluate the real small model each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from flowprune.engine.allocation import Plan
from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.measuring import check_finite, measure
from flowprune.engine.planning import CoupledModel
from flowprune.engine.planning.exemptions import Frozen, Ignored
from flowprune.engine.planning.falling_short import attempts
from flowprune.engine.planning.request import AskedOnce, name_of
from flowprune.engine.signatures import Inputs
from flowprune.errors import BudgetError, ModelError
from flowprune.explanation import layers_of
from flowprune.methods.importance import L2, Importance
from flowprune.pruning import plan, prune
from flowprune.studies.sensitivity.result import CutPoint, GroupSensitivity, Sensitivity

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def sensitivity(
    model: nn.Module,
    inputs: Inputs,
    evaluate: Callable[[nn.Module], float],
    *,
    importance: Importance | None = None,
    shares: Sequence[float] = SHARES,
    ignore: Ignored = (),
    freeze: Frozen | None = None,
    progress: Callable[[int, int, str], None] = lambda done, cuts, group: None,
) -> Sensitivity:
    """Accuracy against the share removed, for every coupled group alone; ``model`` is not touched.

    What is measured is what ``prune`` makes: channels leave every tensor they are coupled to, and a smaller model is evaluated.
    Groups that must lose equally many (rows of a split, a grouped convolution or a shuffle) are cut together. Li et al., Pruning
    Filters for Efficient ConvNets, ICLR 2017, arXiv 1608.08710, section 3.2, scan layer by layer.

    Args:
        model: any eager ``nn.Module``.
        inputs: example inputs of its forward, as for ``plan``.
        evaluate: model -> accuracy, higher is better. Use images that are not the test set, if an allocation is to be drawn from
            the result.
        importance: which channels of a group leave first; the L2 norm of their filters if None. It is asked once.
        shares: of the channels to remove, each above 0 and below 1.
        ignore, freeze: as for ``plan``.
        progress: is called with cuts done, cuts in all and the group's name.

    Raises:
        BudgetError: a share is none.
        ModelError: ``evaluate`` returned no number, or as ``plan`` raises it.
        TraceError: the forward raises on the example inputs.

    Example:
        >>> import flowprune as fp
        >>> model, data = fp.models.create("vgg6", in_channels=1, width=4), fp.load_data("digits")
        >>> found = fp.sensitivity(
        ...     model, data.example_input(), lambda small: fp.evaluate(small, data).top1, shares=[0.5]
        ... )
        >>> [(row.name, row.channels) for row in found.rows][:2]
        [('features.conv1_1', 4), ('features.conv1_2', 4)]
    """
    asked = tuple(sorted({_checked(share) for share in shares}))
    if not asked:
        raise BudgetError("shares names no share to remove; use numbers above 0 and below 1")
    check_finite(model)
    coupling = CoupledModel.of(model, inputs, ignore, freeze).coupling
    criterion = AskedOnce(importance if importance is not None else L2())
    whole = {group.name: 1.0 for group in coupling.groups}
    cost = measure(model, inputs)
    accuracy = checked_accuracy(evaluate(model))
    rows = []
    for number, members in enumerate(coupling.classes):
        groups = [coupling.groups[member] for member in members]
        points: list[CutPoint] = []
        for position, share in enumerate(asked):
            kept = {**whole, **{group.name: 1 - share for group in groups}}
            with attempts():
                made = plan(
                    model, inputs, importance=criterion, channels=kept, largest_cut=1.0, ignore=ignore, freeze=freeze
                )
            removed = removed_from(groups[0], made)
            if points and points[-1].removed == removed:
                found = points[-1].accuracy
            else:
                found = checked_accuracy(evaluate(prune(model, made))) if removed else accuracy
            points.append(CutPoint(share, removed, made.macs[1], made.params[1], found))
            progress(number * len(asked) + position + 1, len(coupling.classes) * len(asked), groups[0].name)
        rows.append(
            GroupSensitivity(
                tuple(group.name for group in groups),
                tuple(
                    dict.fromkeys(layer for group in groups for layer in layers_of(group, "output") or (group.name,))
                ),
                groups[0].channels,
                tuple(points),
            )
        )
    return Sensitivity(accuracy, cost.macs, cost.params, name_of(criterion), asked, tuple(rows))


def removed_from(group: CoupledGroup, made: Plan) -> int:
    """How many of the group's channels leave by a plan."""
    member = group.members[0]
    gone = made.removed.get(member.name, {}).get(member.dimension, ())
    return int(np.isin(member.indices[:, 0], list(gone)).sum())


def _checked(share: object) -> float:
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise BudgetError(f"shares: {share!r} is not a share to remove; use numbers above 0 and below 1")
    return float(share)


def checked_accuracy(found: object) -> float:
    """What an ``evaluate`` returned, as a number. Raises a ``ModelError`` where it is none."""
    try:
        number = float(found)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise ModelError(f"evaluate returned {found!r}, which is no accuracy; it must return one finite number")
    return number
