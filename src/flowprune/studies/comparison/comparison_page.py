"""The page of a comparison: the table, and accuracy against cost."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from flowprune.errors import counted
from flowprune.reporting.figures import dressed
from flowprune.reporting.template import PageFigures, PageTable, summary_html
from flowprune.studies.comparison.comparison_recipe import CONTROL, DENSE, SCRATCH
from flowprune.studies.comparison.summary import TEXT_COLUMNS, headers, table_cells

COLORS = (
    *("#0f9d8a", "#c2571a", "#7b5cd6", "#b8860b", "#c23b6b", "#3f7fd0", "#5f8f2f", "#a0522d", "#d0703f", "#2f8fa5"),
    "#8a8a00",
)
_NEUTRAL = "#7a869a"
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "cross", "x", "star")


def comparison_html(comparison: Mapping[str, Any]) -> str:
    """The page as a string.

    Args:
        comparison: the content of ``comparison.json``.
    """
    table, recipe = comparison["table"], comparison["recipe"]
    seeds = recipe["seeds"]
    lead = (
        f"{recipe['network']['name']} on {recipe['data']['name']}: {counted(len(recipe['methods']), 'method')}, "
        f"{counted(len(recipe['pruning']['budgets']), 'budget')}, {counted(len(seeds), 'seed')}, one loop."
    )
    figures = [("before fine-tuning", pareto_figure(table, "before"))]
    if any(row["after"] for row in table):
        figures.insert(0, ("after fine-tuning", pareto_figure(table, "after")))
    return summary_html(
        str(comparison["name"]),
        lead,
        tables=[
            PageTable(
                "table",
                "Table",
                "Mean and deviation over the seeds. MACs and parameters are counted exactly in each small model, in brackets as "
                "shares of the dense one's; beside masks and quantizers also weights that are not zero, their MACs, and the bytes "
                "of the tensors in a file. Top-1 after is that of the last epoch; the best epoch was chosen on the test images. "
                "Beside control: less the unpruned copy fine-tuned alike, seed by seed.",
                headers(table),
                table_cells(table),
                TEXT_COLUMNS,
            )
        ],
        figures=[
            PageFigures(
                "pareto",
                "Accuracy against cost",
                "Each point is a method at a budget; bars are one deviation over the seeds.",
                figures,
            )
        ],
        recipe=recipe,
        environment=comparison["environment"],
    )


def pareto_figure(table: Sequence[Mapping[str, Any]], when: str) -> go.Figure:
    """Top-1 against MACs: one line a method over its budgets, dotted where the weights were new; dense and control as points.

    Args:
        table: the rows of ``comparison.json``.
        when: "before" or "after" fine-tuning.
    """
    figure = go.Figure()
    names = list(dict.fromkeys(row["method"] for row in table))
    methods = [name for name in names if name not in (DENSE, CONTROL) and not name.startswith(f"{SCRATCH}-")]
    for name in names:
        rows = [row for row in table if row["method"] == name and row[when if name != DENSE else "before"]]
        rows.sort(key=lambda row: statistics.mean(row["macs"]))
        if not rows:
            continue
        accuracies = [row[when if name != DENSE else "before"] for row in rows]
        origin = name.removeprefix(f"{SCRATCH}-")
        place = methods.index(origin) if origin in methods else None
        color = _NEUTRAL if place is None else COLORS[place % len(COLORS)]
        figure.add_scatter(
            x=[statistics.mean(row["macs"]) / 1e6 for row in rows],
            y=[statistics.mean(values) for values in accuracies],
            error_y={
                "type": "data",
                "array": [statistics.stdev(values) if len(values) > 1 else 0.0 for values in accuracies],
                "thickness": 1,
            },
            mode="lines+markers" if place is not None else "markers",
            name=html.escape(name, quote=False),
            line={"color": color, "width": 1.5, "dash": "dot" if origin != name else "solid"},
            marker={"size": 9, "symbol": "star" if place is None else _SYMBOLS[place % len(_SYMBOLS)], "color": color},
            hovertemplate="%{x:.3f}M MACs<br>%{y:.2f} %<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(title_text="multiply-accumulates per image, millions")
    figure.update_yaxes(title_text=f"top-1 {when} fine-tuning, per cent")
    return dressed(figure, 460)
