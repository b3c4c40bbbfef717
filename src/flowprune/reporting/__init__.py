"""What a run shows: its results file, tables of it, and one self-contained page."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

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
_FILES = {"write_report": "run_page", "markdown_table": "table", "results_table": "table"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f"{__name__}.{_FILES.get(name, 'results')}"), name)
    globals()[name] = found
    return found
