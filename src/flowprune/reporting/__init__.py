"""What a run shows: its results file, tables of it, and one self-contained page."""

from flowprune.reporting.environment import environment
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
