"""Plans that take less than was asked for: said once a plan, with the most frequent reasons and what to do about them."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from flowprune.engine.allocation import Budget, Plan, Shares, share_of_layer
from flowprune.engine.coupling import Coupling
from flowprune.errors import FlowpruneWarning, UnreachableBudgetError

REASONS = 3
"""How many reasons a message gives at most."""

_PART = re.compile(r"^(\d+) of \d+ filters: ")
_PLACE = re.compile(r" \((?:\S+ )?in [^()]*\)$")
_EXPECTED = ("it is an output of the model", "as asked")
_ADVICE = (
    ("no coupling rule", "give the operator a rule (flowprune.coupling.rule)"),
    ("a number written in the code", "read the number off a tensor's shape, or keep it as an attribute of the module"),
    ("computes it from a width", "compute that number once, when the model is built"),
    ("as asked", "ignore or freeze less"),
)

_part_of_another: ContextVar[bool] = ContextVar("part_of_another", default=False)


@contextmanager
def attempts() -> Iterator[None]:
    """Plans that are made inside are parts or trials of something else, and nothing is said of them."""
    token = _part_of_another.set(True)
    try:
        yield
    finally:
        _part_of_another.reset(token)


def warn_if_short(made: Plan, budget: Budget) -> None:
    """Warn of a plan that is empty, or keeps more than twice the channels that were asked for; at the line of the user's code.

    Args:
        made: the plan.
        budget: what was asked.
    """
    said = None if _part_of_another.get() else shortfall(made, budget)
    if said is not None:
        warnings.warn(said, FlowpruneWarning, stacklevel=_level_of_caller())


def shortfall(made: Plan, budget: Budget) -> str | None:
    """By how much a plan falls short of its budget, why, and what to do; None where it does not. Counts of MACs or parameters and
    times are met, or ``plan`` has raised.

    What is asked of ``channels`` is compared over the layers that could be expected to shrink: neither outputs of the model nor
    what the user wants left alone.
    """
    if budget.kind == "threshold":
        if not made.is_empty:
            return None
        alive = sum(made.kept_alive.values())
        why = ", because their constants can go nowhere" if made.round_to == 1 else ""
        dead = f"{alive} dead filters stay{why}" if alive else "no filter that may leave is below it"
        return _message(f"{budget} removes nothing: {dead}", made, True, "train on, or raise the threshold")
    if budget.kind == "outcome":
        what = "outcome removes nothing" if made.is_empty else "not all leaves that the outcome says should"
        staying = "; ".join(f"{name} keeps {reason}" for name, reason in made.stays.items())
        return f"{what}; {staying or 'it names no filter'}" if made.stays or made.is_empty else None
    if budget.kind != "channels" or callable(budget.share):
        return None
    assert budget.share is not None
    kept, asked, whole = _filters(made, budget.share)
    if made.is_empty:
        nothing_asked = budget.share == 1 or (isinstance(budget.share, Mapping) and set(budget.share.values()) == {1.0})
        return None if nothing_asked else _message(f"{budget} removes nothing", made, whole > 0)
    if kept <= 2 * asked:
        return None
    return _message(f"{budget} keeps {kept} of {whole} filters, more than twice what was asked for", made, True)


@contextmanager
def what_stays_is_said(coupling: Coupling) -> Iterator[None]:
    """A budget that cannot be met inside says what stays, and why."""
    try:
        yield
    except UnreachableBudgetError as error:
        stays = why_it_stays(coupling.frozen, bool(coupling.groups))
        raise UnreachableBudgetError(f"{error}; what stays: {stays}" if stays else str(error), error.smallest) from None


def why_it_stays(frozen: Mapping[str, str], something_may_leave: bool) -> str:
    """The most frequent reasons of weights that stay, and what can be done; empty where there is none worth saying.

    Args:
        frozen: weight -> why (some of) its filters stay, as ``Plan.frozen``.
        something_may_leave: then it is no news that outputs stay, and what the user wants left alone.
    """
    unexpected = {name: reason for name, reason in frozen.items() if not reason.endswith(_EXPECTED)}
    if not unexpected and something_may_leave:
        return ""
    weights: dict[str, list[str]] = {}
    for name, reason in (unexpected or frozen).items():
        weights.setdefault(_PLACE.sub("", _PART.sub("", reason)), []).append(name)
    found = sorted(weights.values(), key=lambda names: -len(names))[:REASONS]
    parts = [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {_PART.sub('', frozen[names[0]])}"
        for names in found
    ]
    said = "; ".join(parts)
    todo = [what for sign, what in _ADVICE if sign in said]
    return f"{said}; {'; '.join(todo)}" if todo else said


def _message(what: str, made: Plan, something_may_leave: bool, advice: str = "") -> str:
    parts = [what]
    if made.round_to > 1 and any(width.reached > width.asked for width in made.rounded):
        parts.append(f"widths are rounded to multiples of {made.round_to}")
    stays = why_it_stays(made.frozen, something_may_leave)
    if stays:
        parts += [f"what stays: {stays}", "plan.frozen names every weight that stays"]
    elif not advice and len(parts) == 1:
        parts.append("largest_cut, and the two channels that every dimension keeps, allow no more")
    return "; ".join([*parts, advice] if advice else parts)


def _filters(made: Plan, shares: Shares) -> tuple[int, float, int]:
    """Filters that are kept, that were asked to be, and that there are; of the layers of which some were to leave."""
    kept, asked, whole = 0, 0.0, 0
    for layer in made.layers:
        share = share_of_layer(shares, layer.layer)
        if share == 1:
            continue
        before, after = layer.channels
        for name, reason in made.frozen.items():
            if name.rpartition(".")[0] == layer.layer and reason.endswith(_EXPECTED):
                part = _PART.match(reason)
                staying = int(part[1]) if part else before
                before, after = before - staying, after - staying
        kept, asked, whole = kept + after, asked + share * before, whole + before
    return kept, asked, whole


def _level_of_caller() -> int:
    """How far up the stack the first line is that is not this package's: where the user has called it."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("flowprune", "contextlib"):
        level, frame = level + 1, frame.f_back
    return level
