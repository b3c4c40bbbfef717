"""A budget: what the user asks to keep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flowprune.engine.allocation.by_layer import Shares, checked_shares
from flowprune.engine.interfaces import Outcome
from flowprune.engine.signatures import Scope
from flowprune.errors import BudgetError

Kind = Literal["macs", "params", "channels", "threshold", "latency", "outcome"]

KINDS: tuple[Kind, ...] = ("macs", "params", "channels", "threshold", "latency")
"""What a budget may count."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_NANOSECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}


@dataclass(frozen=True)
class Budget:
    """A target, as asked.

    Attributes:
        kind: what is counted: "macs" (multiply-accumulates an image), "params", "channels" (of every group),
            "threshold", or "latency" (of one forward, measured); "outcome" counts nothing: what leaves was decided in a training.
        share: the share that is kept, in (0, 1]; None where ``absolute`` is given. For "threshold": the scale below which a
            filter is dead, as a share of the network's 90th percentile. For "channels" also a mapping: pattern of layers -> share.
        absolute: the count that is kept, of a latency in nanoseconds; None where ``share`` is given.
        scope: "global" ranks the channels of all groups together, "local" takes the same share from every group.
    """

    kind: Kind
    share: Shares | None = None
    absolute: int | None = None
    scope: Scope = "global"

    def target(self, dense: int) -> int:
        """The largest count allowed, where the dense model has ``dense``."""
        if self.absolute is not None:
            return self.absolute
        assert isinstance(self.share, float)
        return int(self.share * dense + 1e-9)

    def __str__(self) -> str:
        if self.kind == "outcome":
            return "outcome"
        if callable(self.share):
            value = "each group's own"
        elif isinstance(self.share, Mapping):
            value = "{" + ", ".join(f"{pattern}: {share:g}" for pattern, share in self.share.items()) + "}"
        else:
            value = f"{self.share:g}" if self.share is not None else f"{self.absolute}"
        if self.kind == "latency" and self.absolute is not None:
            value = f"{self.absolute / 1e6:g}ms"
        return f"{self.kind}={value}"


def budget_from(
    *,
    macs: float | str | None = None,
    params: float | str | None = None,
    channels: Shares | None = None,
    threshold: float | None = None,
    latency: float | str | None = None,
    scope: Scope = "global",
    outcome: Outcome | None = None,
) -> Budget:
    """The one budget that is given.

    Args:
        macs, params: what is kept: a float in (0, 1] or ``"50%"`` is a share, another string is absolute, with a unit: ``"60M"``.
        channels: the share of every coupled group that is kept; or pattern of layers -> share, the rest stays whole.
        threshold: remove filters whose scale is below this share of the network's 90th percentile.
        latency: the time of a forward that is kept: a share of the dense model's, or a string like ``"4ms"``.
        scope: "global" or "local".
        outcome: what a training decided; where that is which filters leave, it is the budget if no other is given.

    Raises:
        BudgetError: if none or several are given, or one is malformed.
    """
    given = {"macs": macs, "params": params, "channels": channels, "threshold": threshold, "latency": latency}
    asked = {kind: value for kind, value in given.items() if value is not None}
    if not asked and outcome is not None and outcome.leaves is not None:
        return Budget("outcome")
    if len(asked) != 1:
        what = f"{len(asked)} were given ({', '.join(asked)})" if asked else "none was given"
        raise BudgetError(
            f"a cut needs exactly one budget of macs=, params=, channels=, threshold= and latency=; {what}"
        )
    if scope not in ("global", "local"):
        raise BudgetError(f'scope={scope!r} is not known; use "global" or "local"')
    ((kind, value),) = asked.items()
    if isinstance(value, str) and (percent := re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*%\s*", value)):
        value = float(percent[1]) / 100
    if isinstance(value, str):
        return Budget(kind, absolute=_absolute(kind, value), scope=scope)  # type: ignore[arg-type]
    if kind == "channels" and (isinstance(value, Mapping) or callable(value)):
        return Budget("channels", share=checked_shares(value, "channels"), scope=scope)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not 0 < value <= 1:
        example = {"macs": "60M", "params": "60M", "latency": "4ms"}.get(kind)
        absolute = f', an absolute one a string like "{example}"' if example else ""
        raise BudgetError(f"{kind}={value!r} is not a budget: a share is a number above 0 and at most 1{absolute}")
    return Budget(kind, share=float(value), scope=scope)  # type: ignore[arg-type]


def _absolute(kind: str, text: str) -> int:
    if kind == "latency":
        timed = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(ns|us|ms|s)\s*", text)
        if timed is None or float(timed[1]) == 0:
            raise BudgetError(f'latency={text!r} is not a budget; write a share like 0.7 or a time like "4ms"')
        return max(1, round(float(timed[1]) * _NANOSECONDS[timed[2]]))
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMGB]?)\s*", text, flags=re.IGNORECASE)
    if kind not in ("macs", "params") or found is None:
        raise BudgetError(
            f'{kind}={text!r} is not a budget; write a share like 0.5, or for macs and params a count like "60M"'
        )
    number = round(float(found[1]) * _UNITS[found[2].upper()])
    if number < 1:
        raise BudgetError(f"{kind}={text!r} keeps nothing; the smallest count is 1")
    return number
