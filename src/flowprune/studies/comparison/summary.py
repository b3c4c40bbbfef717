"""From the results of the cells to one row for every method and budget: mean and deviation over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from flowprune.reporting.table import markdown_of, ruled_table
from flowprune.studies.comparison.cells import Cell
from flowprune.studies.comparison.comparison_recipe import CONTROL, DENSE

HEADERS = (
    "budget",
    "method",
    "seeds",
    "MACs",
    "params",
    "top-1 % before",
    "top-1 % after",
    "beside control",
    "best epoch",
)
KEPT = {"nonzero": "non-zero", "effective_macs": "effective MACs", "bytes": "bytes"}
"""What masks and quantizers keep, behind the costs, where the table has any."""
TEXT_COLUMNS = 2


@dataclass(frozen=True)
class SummaryRow:
    """One method at one budget; every list has one entry a seed.

    Attributes:
        method, budget: as in the recipe; None for the dense model and the control.
        seeds: in the recipe's order.
        macs, params: exactly counted.
        macs_share, params_share: of the dense model's.
        nonzero, effective_macs, bytes: parameters that are not zero, MACs whose weight is not zero, and what an artifact's tensors
            take, a codec's where there is one; None for results of an earlier version, which did not count them.
        before: top-1 in per cent without fine-tuning; None for what is trained from new weights.
        after: after the last epoch of fine-tuning; None where there was none.
        best: the highest of any epoch on the test images, beside the last one only.
        beside_control: ``after`` less the control's of the same seed.
    """

    method: str
    budget: str | None
    seeds: list[int]
    macs: list[int]
    params: list[int]
    macs_share: list[float]
    params_share: list[float]
    nonzero: list[int] | None
    effective_macs: list[int] | None
    bytes: list[int] | None
    before: list[float] | None
    after: list[float] | None
    best: list[float] | None
    beside_control: list[float] | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON, with mean and deviation (of the sample; None for one seed) beside every list of accuracies."""
        found = asdict(self)
        for key in ("before", "after", "best", "beside_control"):
            numbers = found[key]
            found[f"{key}_mean"] = None if numbers is None else statistics.mean(numbers)
            found[f"{key}_deviation"] = None if numbers is None or len(numbers) < 2 else statistics.stdev(numbers)
        return found


def summarised(finished: Sequence[tuple[Cell, Mapping[str, Any]]]) -> list[SummaryRow]:
    """One row for the dense model, the control, and every method at every budget.

    Args:
        finished: the cells and the content of their results files.
    """
    control = {cell.seed: _row(results, "finetuned")["top1"] for cell, results in finished if cell.kind == "control"}
    grouped: dict[tuple[str, str | None], list[tuple[int, Mapping[str, Any]]]] = {}
    dense: dict[int, Mapping[str, Any]] = {}
    for cell, results in finished:
        key = (cell.label, None if cell.budget is None else str(cell.budget))
        grouped.setdefault(key, []).append((cell.seed, results))
        dense.setdefault(cell.seed, _row(results, "dense"))
    one = next(iter(dense.values()))
    alone: list[tuple[int, Mapping[str, Any]]] = [(seed, {"rows": [row]}) for seed, row in dense.items()]
    rows = []
    for (method, budget), members in {(DENSE, None): alone, **grouped}.items():
        last = [_last(results) for _, results in members]
        tuned = [row for row in last if row["stage"] not in (DENSE, *_UNTRAINED)]
        pruned = [row for _, results in members if (row := _untrained(results)) is not None]
        if method in (DENSE, CONTROL):
            pruned = [dense[seed] for seed, _ in members]
        paired = [(row, control.get(seed)) for (seed, _), row in zip(members, last, strict=True)]
        differences = [row["top1"] - beside for row, beside in paired if beside is not None]
        rows.append(
            SummaryRow(
                method=method,
                budget=budget,
                seeds=[seed for seed, _ in members],
                macs=[row["macs"] for row in last],
                params=[row["params"] for row in last],
                macs_share=[row["macs"] / one["macs"] for row in last],
                params_share=[row["params"] / one["params"] for row in last],
                **_kept(last),
                before=[row["top1"] for row in pruned] or None,
                after=[row["top1"] for row in tuned] or None,
                best=[row.get("best_top1", row["top1"]) for row in tuned] or None,
                beside_control=differences if tuned and control else None,
            )
        )
    order = list(dict.fromkeys(row.budget for row in rows))
    return sorted(rows, key=lambda row: order.index(row.budget))


def headers(table: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The columns' titles, for the rows of ``comparison.json``."""
    return (*HEADERS[:5], *(KEPT[key] for key in _shown(table)), *HEADERS[5:])


def table_cells(table: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of ``comparison.json`` as text, in the order of ``headers``."""
    kept = _shown(table)
    return [
        (
            row["budget"] or "-",
            row["method"],
            str(len(row["seeds"])),
            _cost(row["macs"], row["macs_share"]),
            _cost(row["params"], row["params_share"]),
            *(_cost(row[key], [count / statistics.mean(table[0][key]) for count in row[key]]) for key in kept),
            _spread(row["before"]),
            _spread(row["after"]),
            _spread(row["beside_control"], sign="+"),
            _spread(row["best"]),
        )
        for row in table
    ]


def terminal_table(comparison: Mapping[str, Any]) -> Table:
    """The table for the terminal; a rule stands between budgets."""
    rows = table_cells(comparison["table"])
    return ruled_table(
        str(comparison["name"]), headers(comparison["table"]), rows, TEXT_COLUMNS, [cells[0] for cells in rows]
    )


def markdown_table(comparison: Mapping[str, Any]) -> str:
    """The table as Markdown, with a final newline."""
    return markdown_of(headers(comparison["table"]), table_cells(comparison["table"]), TEXT_COLUMNS)


def _kept(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of every row by the keys of ``KEPT``."""
    return {key: [row[key] for row in rows] if all(key in row for row in rows) else None for key in KEPT}


def _shown(table: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The keys of ``KEPT``, where all rows have them, and one has fewer effective MACs than MACs, or a budget of bytes."""
    counted = all(row.get(key) for row in table for key in KEPT)
    sparse = counted and any(row["effective_macs"] != row["macs"] for row in table)
    return tuple(KEPT) if counted and (sparse or any("bytes" in (row["budget"] or "") for row in table)) else ()


def _cost(counts: Sequence[int], shares: Sequence[float]) -> str:
    """Millions and the share of the dense model's; where the seeds differ, means and the range of the shares."""
    mean, low, high = statistics.mean(counts) / 1e6, 100 * min(shares), 100 * max(shares)
    share = f"{low:.2f} %" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f} %"
    return f"{mean:.3f}M ({share})"


def _spread(numbers: Sequence[float] | None, sign: str = "") -> str:
    if not numbers:
        return "-"
    mean = f"{statistics.mean(numbers):{sign}.2f}"
    return mean if len(numbers) < 2 else f"{mean} ± {statistics.stdev(numbers):.2f}"


_UNTRAINED = ("pruned", "masked")
"""Stages that change a network and leave its training to the next."""


def _untrained(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row of the last such stage."""
    return next((row for row in reversed(results["rows"]) if row["stage"] in _UNTRAINED), None)


def _row(results: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(row for row in results["rows"] if row["stage"] == stage)
    return found


def _last(results: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = results["rows"][-1]
    return found
