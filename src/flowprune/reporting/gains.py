"""What a run has gained, in sentences for somebody who knows none of its words."""

from __future__ import annotations

from collections.abc import Sequence

from flowprune.reporting.results import ResultRow, RunResults


def gains(results: RunResults) -> list[str]:
    """A sentence for every network that was cut: how much smaller, how much less arithmetic, and the accuracy on the way."""
    found = []
    for network in dict.fromkeys(row.network for row in results.rows):
        course = _best_course([row for row in results.rows if row.network == network])
        if course is not None:
            found.append(_sentence(network, *course))
    return found


def data_name(results: RunResults) -> str:
    """The data set of the run, as its recipe calls it; "" where it says nothing."""
    data = results.recipe.get("data")
    return str(data.get("name", "")) if isinstance(data, dict) else ""


def _best_course(rows: list[ResultRow]) -> tuple[ResultRow, list[ResultRow]] | None:
    """The dense model and the steps after it: with the flow rather than without, under a budget of MACs rather than another."""
    cut = [row for row in rows if row.budget is not None]
    if not cut:
        return None
    best = min(cut, key=lambda row: (row.method == "plain", not row.budget_is_of_macs))
    dense = [row for row in rows if row.method == best.method and row.budget is None]
    steps = [row for row in cut if (row.method, row.budget) == (best.method, best.budget)]
    return (dense[0], steps) if dense else None


def _sentence(network: str, dense: ResultRow, steps: list[ResultRow]) -> str:
    small = steps[-1]
    accuracy = f"It names {dense.top1:.1f} % of the test images rightly before the cut"
    if len(steps) > 1:
        accuracy += f", {steps[0].top1:.1f} % right after it and {small.top1:.1f} % after training on"
    else:
        accuracy += f" and {small.top1:.1f} % right after it"
    became = smaller((dense.params, small.params), (dense.macs, small.macs))
    return f"{network} became {became}. {accuracy}."


def smaller(params: Sequence[int], macs: Sequence[int]) -> str:
    """How much smaller a network is: what follows "it is". Both before and after."""
    return (
        f"{params[0] / max(params[1], 1):.1f} times smaller ({_short(params[0])} to {_short(params[1])} parameters) and needs "
        f"{macs[0] / max(macs[1], 1):.1f} times less arithmetic for an image ({_short(macs[0])} to {_short(macs[1])} "
        "multiply-accumulates)"
    )


def _short(count: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
