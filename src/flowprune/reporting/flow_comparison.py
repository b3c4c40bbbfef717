"""Two flows in one sentence: is the one's path shorter and straighter than the other's, or not?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from flowprune.reporting.results import StageRow

TOTALS: tuple[tuple[str, str], ...] = (
    ("gradient", "length, sum of |d|"),
    ("relative_gradient", "sum of |d| / |Y|"),
    ("curvature", "curvature, sum of |c|"),
    ("relative_curvature", "sum of |c| / |Y|"),
    ("angle", "mean angle, rad"),
    ("straightness", "straightness"),
    ("silent", "silent channels"),
)
"""The totals of a flow and what they are called."""

_ALIKE = 0.01
"""What differs by no more than this share is called alike."""

_WORDS = (
    ("relative_gradient", "|d| / |Y|", "shorter", "longer"),
    ("relative_curvature", "|c| / |Y|", "less curved", "more curved"),
    ("angle", "angle", "turning less", "turning more"),
    ("straightness", "straightness", "more winding", "straighter"),
)


class Flow(NamedTuple):
    """A network's flow, as far as it is compared."""

    name: str
    totals: Mapping[str, float | None]
    stages: Sequence[StageRow]


def verdict(first: Flow, second: Flow) -> str:
    """What the second flow is beside the first, each word with the two numbers it rests on.

    Lengths are relative to the features, because a smaller |d| alone may only mean that all features shrank; where the bare
    lengths fell further, that is said too. A sum may hide that a path got shorter in one stage and longer in the next, so the
    stages are counted where both networks have the same number of them.
    """
    parts = []
    for key, symbol, below, above in _WORDS:
        before, after = first.totals.get(key), second.totals.get(key)
        if before is None or after is None:
            continue
        if abs(after - before) <= _ALIKE * max(abs(before), abs(after)):
            word = f"alike in {symbol}"
        else:
            word = below if after < before else above
        parts.append(f"{word} ({symbol} {after:.3g} against {before:.3g}{_stages(key, first.stages, second.stages)})")
    bare, relative = (_ratio(first.totals, second.totals, key) for key in ("gradient", "relative_gradient"))
    if bare is not None and relative is not None and bare < relative - _ALIKE:
        parts.append(f"|d| itself is {bare:.2f} times, so the features shrank as well")
    return f"{second.name} beside {first.name}: " + ("; ".join(parts) if parts else "nothing can be compared")


def _stages(key: str, first: Sequence[StageRow], second: Sequence[StageRow]) -> str:
    if key not in _STAGES or len(first) != len(second):
        return ""
    says, measure, better = _STAGES[key]
    pairs = [(measure(a), measure(b)) for a, b in zip(first, second, strict=True)]
    known = [better(before, after) for before, after in pairs if before is not None and after is not None]
    return f"; {says} in {sum(known)} of {len(known)} stages" if len(known) > 1 else ""


def _relative_length(stage: StageRow) -> float | None:
    return stage.length / stage.scale if stage.scale > 0 else None


# What is counted, and when a stage counts: shorter, straighter.
_STAGES: dict[str, tuple[str, Callable[[StageRow], float | None], Callable[[float, float], bool]]] = {
    "relative_gradient": ("shorter", _relative_length, lambda before, after: after < before),
    "straightness": ("straighter", lambda stage: stage.straightness, lambda before, after: after > before),
}


def _ratio(totals: Mapping[str, float | None], others: Mapping[str, float | None], key: str) -> float | None:
    first, second = totals.get(key), others.get(key)
    return None if first is None or second is None or first == 0 else second / first
