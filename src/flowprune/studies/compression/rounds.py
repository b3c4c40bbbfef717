"""A cut in rounds: some channels leave, what reads the others is refitted, and the network learns from the dense one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from flowprune.engine.allocation import Plan
from flowprune.engine.allocation.composition import composed, cuts_between
from flowprune.engine.interfaces import Importance, Recovery
from flowprune.engine.planning import Request
from flowprune.engine.planning.exemptions import Ignored
from flowprune.errors import ModelError
from flowprune.methods.recovery import recover
from flowprune.methods.recovery.distillation import Distillation
from flowprune.pruning import prune_in_steps


@dataclass(frozen=True)
class Round:
    """What a training after a cut is told.

    Attributes:
        number, of: which round, from 1, and how many there are.
        share: of all the training of this compression that is this round's: half of it is the last one's.
        teacher: distillation from the dense network: a regularizer for ``fp.train``; in a loop of your own add
            ``teacher.penalty(batch=(x, y), outputs=model(x))`` to the loss.
        folder: for the state of the training, if it is to go on after an interruption; None where nothing is kept.
        seconds: that it may take; None where nobody waits.
        title: for progress bars.
    """

    number: int
    of: int
    share: float
    teacher: Recovery
    folder: Path | None = None
    seconds: float | None = None
    title: str = "compressing"


def share_of_round(number: int, of: int) -> float:
    """The share of all training that a round gets: half of it the last, the others the same of the rest."""
    return 1.0 if of == 1 else 0.5 if number == of else 0.5 / (of - 1)


def cut_in_rounds(
    dense: nn.Module,
    inputs: Any,
    shares: Mapping[str, float],
    criterion: Importance,
    rounds: int,
    recovered: Callable[[nn.Module, int], nn.Module],
    ignore: Ignored = (),
) -> nn.Module:
    """Cut to the shares of every group in rounds, with a recovery after each.

    Args:
        dense: the model; it is not touched.
        inputs: example inputs.
        shares: what each coupled group keeps in the end, by its name.
        criterion: which channels leave, asked anew in each round.
        rounds: how many.
        recovered: is given the small model and the round, from 1, and returns the one to go on with.
        ignore: as for ``plan``.
    """
    asked = Request.of(channels=dict(shares), importance=criterion, largest_cut=1.0, ignore=ignore)
    return recovered(prune_in_steps(dense, inputs, asked, rounds, recovered), rounds)


def cut_between(dense: nn.Module, small: nn.Module, asked: str = "") -> Plan | None:
    """All that was cut from the dense model as one plan; None where nothing was."""
    made = cuts_between(dense, small)
    return composed(made, asked or made[-1].asked) if made else None


def refitted(small: nn.Module, dense: nn.Module, batches: Sequence[Any]) -> nn.Module:
    """The small model with its consumers refitted to say what the dense ones say; as it is without images, or where none can be."""
    made = cut_between(dense, small)
    if made is None or not batches:
        return small
    try:
        return recover(small, dense, made, batches, recovery="least_squares")
    except ModelError:  # what it reads is no number on these images: the training may mend it, or say so
        return small


def distilled(
    small: nn.Module,
    dense: nn.Module,
    train: Callable[[nn.Module, Round], nn.Module | None],
    told: Callable[[Recovery], Round],
) -> nn.Module:
    """The small model, trained to say what the dense one says.

    Args:
        small: trained in place, unless ``train`` returns another.
        dense: the teacher; a copy of it teaches.
        train: the training.
        told: what it is told, given the teacher.
    """
    made = cut_between(dense, small)
    if made is None:
        return small
    teacher = Distillation()
    try:
        return train(teacher.prepare(small, dense, made, ()), told(teacher)) or small
    finally:
        teacher.close()
