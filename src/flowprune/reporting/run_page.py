"""``report.html``: one page that needs no network, no server and no other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowprune.reporting.figures import figures, networks
from flowprune.reporting.flow_figures import CHORDS_NOTE, PATHS_NOTE, run_paths
from flowprune.reporting.gains import data_name, gains
from flowprune.reporting.results import ResultRow, RunResults, checked_results
from flowprune.reporting.table import HEADERS, TEXT_COLUMNS, table_cells
from flowprune.reporting.template import PageFigures, flat, page_sections, recipe_text, render, write_page

SECTIONS = (
    (
        "accuracy",
        "Accuracy against cost",
        "From the dense model (circle) over the pruned one (cross) to the fine-tuned one (diamond).",
    ),
    (
        "flow",
        "Feature flow, layer by layer",
        "How far the features move from one point of the trained dense network to the next. A short step |d| can also "
        "mean that all features shrank, so read it beside |d| / |Y|.",
    ),
    ("paths", "The paths of the classes", PATHS_NOTE),
    ("chords", "How straight the paths are", CHORDS_NOTE),
    ("channels", "Channels kept", "Output channels of each layer after the cut; the pale bar is the dense width."),
    ("curves", "Training curves", "The task loss is without the penalty; accuracy is measured on the test images."),
)


def write_report(results: RunResults | Mapping[str, Any], path: str | Path) -> None:
    """Write the page of a run.

    Args:
        results: the content of its ``results.json``.
        path: the file to write; it is replaced, in one step.

    Raises:
        ArtifactError: ``results`` is not what a run writes.
        OutputError: the file cannot be written.
    """
    write_page(report_html(checked_results(results)), path)


def report_html(results: RunResults) -> str:
    """The page as a string. Every text of the results is escaped; plotly.js is inlined once."""
    drawn = [*figures(results), *run_paths(results)]
    sections = page_sections(
        [
            PageFigures(name, title, note, [(caption, figure) for section, caption, figure in drawn if section == name])
            for name, title, note in SECTIONS
        ]
    )
    cells = table_cells(results)
    starts = [i for i, row in enumerate(results.rows) if i and row.network != results.rows[i - 1].network]
    return render(
        "report.html.jinja",
        networks=networks(results),
        data=data_name(results),
        gains=gains(results),
        seed=results.seed,
        headers=HEADERS,
        text_columns=TEXT_COLUMNS,
        rows=list(zip(results.rows, cells, strict=True)),
        starts=starts,
        findings=[_finding(results, network) for network in networks(results)],
        sections=sections,
        environment=flat(results.environment),
        recipe=recipe_text(results.recipe),
    )


def _finding(results: RunResults, network: str) -> dict[str, Any]:
    """The two comparisons the run is about, for one network: dead filters when dense, accuracy at the end."""

    def dense(method: str) -> ResultRow | None:
        return next((r for r in results.rows if (r.network, r.method, r.stage) == (network, method, "dense")), None)

    def shares(method: str) -> str:
        row = dense(method)
        if row is None or not row.filters:
            return "-"
        return f"{100 * row.dead_filters / row.filters:.1f} %"

    def final(method: str) -> list[tuple[str, str]]:
        ends = [r for r in results.rows if (r.network, r.method, r.stage) == (network, method, "finetuned")]
        return [(row.budget or "", f"{row.top1:.2f} %") for row in ends]

    methods = dict.fromkeys(row.method for row in results.rows if row.network == network)
    return {
        "network": network,
        "methods": [
            {
                "name": method,
                "dead": shares(method),
                "top1": f"{row.top1:.2f} %" if (row := dense(method)) else "-",
                "final": final(method),
            }
            for method in methods
        ],
    }
