"""What a run shows: its results file, tables of it, and one self-contained page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowprune.registry import on_first_use
from flowprune.reporting.environment import environment as environment

if TYPE_CHECKING:
    from flowprune.reporting.results import ChannelRow, PointRow, ResultRow, RunResults, load_results
    from flowprune.reporting.run_page import write_report
    from flowprune.reporting.table import markdown_table, results_table

__all__ = [
    "ChannelRow",
    "PointRow",
    "ResultRow",
    "RunResults",
    "environment",
    "load_results",
    "markdown_table",
    "results_table",
    "write_report",
]

# Imported on first use: pages need plotly, which only the extra flowprune[run] brings along.
_HOMES = {
    "flowprune.reporting.results": "ChannelRow PointRow ResultRow RunResults load_results",
    "flowprune.reporting.run_page": "write_report",
    "flowprune.reporting.table": "markdown_table results_table",
}


__getattr__, __dir__ = on_first_use(__name__, _HOMES)
