"""The page of a scan: the heat map and the table."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from flowprune.reporting.figures import dressed
from flowprune.reporting.template import PageFigures, PageTable, summary_html
from flowprune.studies.sensitivity.result import Sensitivity


def sensitivity_html(found: Sensitivity, title: str, lead: str, environment: Mapping[str, Any]) -> str:
    """The page as a string."""
    shares = [f"{100 * share:g} %" for share in found.shares]
    return summary_html(
        title,
        lead,
        tables=[
            PageTable(
                "table",
                "Accuracy by share removed",
                f"Each row's groups were cut alone, by the lowest {found.importance} first; the rest stayed whole. Dense: "
                f"{found.accuracy:.2f} at {found.macs:,} MACs and {found.params:,} parameters.",
                ("group", "channels", *shares),
                [
                    (row.name, str(row.channels), *(f"{point.accuracy:.2f}" for point in row.points))
                    for row in found.rows
                ],
            )
        ],
        figures=[
            PageFigures(
                "map",
                "Heat map",
                "Accuracy of the small model that is left when this share of one coupled group leaves.",
                [("accuracy", heat_map(found))],
            )
        ],
        environment=environment,
    )


def heat_map(found: Sensitivity) -> go.Figure:
    """Groups down, removed shares across, accuracy as the colour."""
    rows = list(reversed(found.rows))
    figure = go.Figure(
        go.Heatmap(
            x=[f"{100 * share:g} %" for share in found.shares],
            y=[html.escape(row.name, quote=False) for row in rows],
            z=[[point.accuracy for point in row.points] for row in rows],
            zmax=found.accuracy,
            text=[
                [
                    f"{point.removed} of {row.channels} channels removed<br>{point.macs:,} MACs ({point.macs / found.macs:.1%})"
                    f"<br>{html.escape(', '.join(row.layers[:4]), quote=False)}"
                    for point in row.points
                ]
                for row in rows
            ],
            colorscale="Viridis",
            colorbar={"title": {"text": "accuracy"}, "thickness": 12},
            hovertemplate="%{y}, %{x}<br>%{z:.2f}<br>%{text}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="share of the group's channels removed")
    return dressed(figure, 140 + 22 * len(rows))
