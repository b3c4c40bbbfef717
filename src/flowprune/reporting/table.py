"""The rows of a run as a table: for the terminal, for Markdown, and as cells for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flowprune.reporting.results import ResultRow, RunResults, checked_results

HEADERS = (
    "network",
    "method",
    "stage",
    "budget",
    "top-1 %",
    "params",
    "MACs",
    "sparse %",
    "dead",
    "filters",
    "removed",
)
"""Column titles; "dead" is counted among "filters" (those the model still has), "removed" since the dense model."""

TEXT_COLUMNS = 4
"""The first columns hold text, the rest numbers."""


def compact(number: int) -> str:
    """Four significant digits with a unit: 269722 -> "269.7k", 125485696 -> "125.5M"."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            scaled = number / size
            digits = 3 if scaled < 10 else 2 if scaled < 100 else 1
            return f"{scaled:.{digits}f}{unit}"
    return str(number)


def table_cells(results: RunResults) -> list[tuple[str, ...]]:
    """One tuple of formatted cells, in the order of ``HEADERS``, for each row of the run.

    Parameters and MACs of a pruned model say in brackets what share of its dense model's they are.
    """
    dense = {(row.network, row.method): row for row in results.rows if row.stage == "dense"}
    return [_cells(row, dense.get((row.network, row.method))) for row in results.rows]


def _cells(row: ResultRow, dense: ResultRow | None) -> tuple[str, ...]:
    def cost(number: int, whole: int | None) -> str:
        share = f" ({100 * number / whole:.0f}%)" if whole and row.stage != "dense" else ""
        return compact(number) + share

    return (
        row.network,
        row.method,
        row.stage,
        row.budget or "-",
        f"{row.top1:.2f}",
        cost(row.params, dense.params if dense else None),
        cost(row.macs, dense.macs if dense else None),
        f"{100 * row.sparsity:.1f}",
        str(row.dead_filters),
        str(row.filters),
        "-" if row.filters_removed is None else str(row.filters_removed),
    )


def results_table(results: RunResults | Mapping[str, Any]) -> Table:
    """The table of a run for the terminal; a rule stands between networks.

    Raises:
        ArtifactError: ``results`` is not what a run writes.
    """
    results = checked_results(results)
    starts = [row.network for row in results.rows]
    return ruled_table(f"seed {results.seed}", HEADERS, table_cells(results), TEXT_COLUMNS, starts)


def ruled_table(
    title: str | Text,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    text_columns: int,
    parts: Sequence[str] = (),
) -> Table:
    """A table for the terminal.

    Args:
        title, headers: above it, and above each column.
        rows: the cells.
        text_columns: the first so many hold text, the rest numbers.
        parts: what part of the table each row belongs to; a rule stands between two.
    """
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column, header in enumerate(headers):
        table.add_column(Text(header), justify="left" if column < text_columns else "right", no_wrap=True)
    for number, cells in enumerate(rows):
        ends = bool(parts) and (number + 1 == len(rows) or parts[number + 1] != parts[number])
        # Text, because a name in square brackets would otherwise be read as markup.
        table.add_row(*(Text(cell) for cell in cells), end_section=ends)
    return table


def markdown_table(results: RunResults | Mapping[str, Any]) -> str:
    """The table of a run as Markdown, with a final newline.

    Raises:
        ArtifactError: ``results`` is not what a run writes.
    """
    return markdown_of(HEADERS, table_cells(checked_results(results)), TEXT_COLUMNS)


def markdown_of(headers: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """A table as Markdown, with a final newline; for the arguments see ``ruled_table``."""
    rules = ["---"] * text_columns + ["---:"] * (len(headers) - text_columns)
    return "".join("| " + " | ".join(map(_escaped, line)) + " |\n" for line in (headers, rules, *rows))


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
