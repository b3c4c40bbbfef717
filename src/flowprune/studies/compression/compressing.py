"""From a trained model to the smaller one that was asked for, by validation images alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from flowprune.engine.allocation import Plan
from flowprune.engine.interfaces import Importance
from flowprune.engine.measuring import check_finite
from flowprune.engine.planning import Request
from flowprune.engine.planning.exemptions import Ignored
from flowprune.engine.planning.falling_short import attempts
from flowprune.engine.signatures import Inputs
from flowprune.errors import BudgetError, RecipeError
from flowprune.methods.importance import REGISTRY, Random
from flowprune.pruning import plan_as_asked
from flowprune.studies.compression.choosing import chosen_way, scanned
from flowprune.studies.compression.compression_record import CompressionRecord
from flowprune.studies.compression.cutting_ways import Cutting, Way
from flowprune.studies.compression.goal import Goal
from flowprune.studies.compression.paired_drop import Drop
from flowprune.studies.compression.rounds import Round, cut_between
from flowprune.studies.compression.scored import Scored
from flowprune.studies.compression.trials import TRIALS, Trials
from flowprune.studies.phases.criteria import importance_from

CRITERIA, ROUNDS = ("l2", "fpgm", "nuclear_norm"), (1, 3)
"""What is chosen from where nothing is said."""

Evaluate = Callable[[nn.Module], Any]
"""model -> one number, or for every validation image whether the answer is right."""

Train = Callable[[nn.Module, Round], nn.Module | None]
"""Trains a small model in place, or returns another; the round says who teaches, and how much of the training this is."""


@dataclass(frozen=True)
class Compressed:
    """What ``compress`` has made.

    Attributes:
        model: the small model.
        plan: all that was cut, as one plan.
        before, after: how good the dense and the small model are on the validation images.
        drop: the paired difference of the two, with its upper bound; None where ``evaluate`` gives one number.
        way: the criterion, the allocation and the rounds that were chosen.
        record: all that was found on the way; its ``content`` is that of ``compress.json``.
    """

    model: nn.Module
    plan: Plan
    before: Scored
    after: Scored
    drop: Drop | None
    way: Way
    record: CompressionRecord

    def __str__(self) -> str:
        (macs, left), change = self.plan.macs, f"{self.before.accuracy:.2f} before, {self.after.accuracy:.2f} after"
        drop = f" ({self.drop})" if self.drop is not None else ""
        return f"{left / max(macs, 1):.1%} of the MACs by {self.way}; on the validation images {change}{drop}"


def compress(
    model: nn.Module,
    inputs: Inputs,
    *,
    evaluate: Evaluate,
    train: Train | None = None,
    batches: Iterable[Any] = (),
    macs: float | str | None = None,
    latency: float | str | None = None,
    max_drop: float | None = None,
    criteria: Sequence[str] | Mapping[str, Importance] = CRITERIA,
    rounds: Sequence[int] = ROUNDS,
    trials: int = TRIALS,
    quick: Evaluate | None = None,
    ignore: Ignored = (),
    backend: str = "pytorch",
    round_to: int | str = 1,
    out: str | Path | None = None,
    resume: bool = False,
    hours: float | None = None,
    settings: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Compressed:
    """A smaller model that has learned from ``model``, cut in the way that does best on validation images.

    ``model`` is not touched. In order: every coupled group is cut alone, which says what each costs (``sensitivity``); each
    criterion cuts to the goal, with widths shared out by these costs and by one ranking, and the best on the validation images is
    taken; so is the number of rounds; then the model is cut, refitted by least squares and trained, round by round. Under
    ``max_drop`` that is done for one budget after the other, and the smallest model that passes is kept, in whatever order they
    came.

    The validation images choose, so they flatter what was chosen: say how good it is by images that nothing here has seen.

    Args:
        model: trained, on any device.
        inputs: example inputs of its forward, as for ``plan``.
        evaluate: a model on the validation images: for every image whether the answer is right (a bool tensor [images], the same
            images each time), or one number, higher is better. Needed image by image for ``max_drop``.
        train: trains a small model, see ``Round``; without it nothing is trained.
        batches: calibration images for refits and for criteria that look at data; read once and kept.
        macs, latency: what is kept, as for ``plan``.
        max_drop: percentage points of accuracy that may be lost at most: the upper bound, at 95 % confidence, of the paired
            difference on the validation images.
        criteria: names to choose from, or criteria by names of your own. Those that need data are left out without ``batches``.
        rounds: numbers of rounds to choose from.
        trials: how many budgets are tried at most under ``max_drop``.
        quick: evaluates on fewer of the images, for the many models of the scan; ``evaluate`` itself if None.
        ignore: what is left alone, as for ``plan``.
        backend: what ``latency`` is timed in, and ``round_to="auto"`` is for.
        round_to: what the widths are multiples of in the end, as for ``plan``: 8, or "auto" for what the machine likes.
        out: a folder for what is found, from which an interrupted compression goes on.
        resume: go on with the one in ``out``, or begin it.
        hours: that it may take; what was found by then is kept, and trainings are told how long they may last.
        settings: what else decides the result, JSON-able, so that one of other settings is not gone on with.
        say: receives a line whenever something is found.

    Raises:
        BudgetError: the goal is malformed or cannot be met; or no model that was tried passes.
        DataError: the validation images are too few to tell such a drop.
        ModelError: ``evaluate`` returns something else; or as ``plan`` raises it.
        OutputError: there is a compression in ``out``, and it is another one or not to be resumed.

    Example:
        >>> import flowprune as fp
        >>> model, data = fp.models.create("vgg6", in_channels=1, width=4), fp.load_data("digits", subset=64)
        >>> images, targets = next(data.batches("test", batch_size=100))
        >>> def train(small, round):
        ...     fp.train(small, data, fp.TrainingSettings(epochs=1), regularizer=round.teacher, progress=False)
        >>> done = fp.compress(
        ...     model,
        ...     data.example_input(),
        ...     evaluate=lambda model: model.eval()(images).argmax(1) == targets,
        ...     train=train,
        ...     macs=0.5,
        ...     criteria=["l2"],
        ...     rounds=[1],
        ... )
        >>> done.plan.macs[1] <= 0.5 * done.plan.macs[0], done.drop.images
        (True, 100)
    """
    goal = Goal.of(macs, latency, max_drop)
    wanted = _checked_rounds(rounds)
    if hours is not None and not hours > 0:
        raise BudgetError(f"hours={hours!r} is no time: use a number above 0")
    check_finite(model)
    if goal.budget is not None and goal.budget.kind == "macs":  # before anything that takes long
        with attempts():
            plan_as_asked(
                model, inputs, Request(goal.budget, Random(), round_to=round_to, ignore=ignore, backend=backend)
            )
    seen = list(batches)
    named = _built(criteria, seen)
    asked = {
        "goal": str(goal),
        "criteria": list(named),
        "rounds": list(wanted),
        "ignore": list(map(str, ignore if not isinstance(ignore, (str, nn.Module)) else [ignore])),
        "backend": backend,
        "round_to": round_to,
        "settings": dict(settings or {}),
    }
    record = CompressionRecord(out, asked, resume=resume)
    limit = None if hours is None else 3600 * hours
    before = Scored.from_dict(record.once("before", lambda: Scored.of(evaluate(model)).as_dict()))
    say(f"before: {before.accuracy:.2f} on the validation images")
    goal.check(before)
    found = scanned(record, model, inputs, quick or evaluate, ignore, limit, say)
    cutting = Cutting(model, inputs, named, found, seen, ignore, backend, round_to)
    way = chosen_way(record, cutting, goal, wanted, evaluate, say)
    tried = Trials(record, cutting, way, evaluate, train, before, limit, say)
    small, after = tried.to(goal.budget) if goal.budget is not None else tried.within(goal, trials)
    made = cut_between(model, small, str(goal) if round_to == 1 else f"{goal}, round_to={round_to}")
    assert made is not None  # something was to leave
    return Compressed(small, made, before, after, tried.drop(after), way, record)


def _checked_rounds(rounds: Sequence[int]) -> list[int]:
    if not rounds or any(isinstance(one, bool) or not isinstance(one, int) or one < 1 for one in rounds):
        raise RecipeError(f"rounds={list(rounds)!r}: name at least one whole number of rounds, such as 3")
    return sorted(set(rounds))


def _built(criteria: Sequence[str] | Mapping[str, Importance], batches: list[Any]) -> dict[str, Importance]:
    """The criteria by name; without images those that look at none."""
    if isinstance(criteria, Mapping):
        return dict(criteria)
    able = [name for name in criteria if batches or not getattr(REGISTRY[name], "needs_data", False)]
    if not able:
        raise RecipeError(f"criteria: {', '.join(criteria) or 'none'}: name one that needs no data, or give batches=")
    return {name: importance_from(name, {}, lambda: batches) for name in able}
