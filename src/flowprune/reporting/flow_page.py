"""The page of ``flowprune flow``: one network's flow, or several side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from flowprune.reporting.figures import METHOD_COLORS, dressed, flow_figure, plain_text
from flowprune.reporting.flow_figures import CHORDS_NOTE, PATHS_NOTE, chords_figure, paths_figure
from flowprune.reporting.flow_record import FlowRecord
from flowprune.reporting.flow_tables import (
    LAYER_HEADERS,
    POINT_HEADERS,
    STAGE_HEADERS,
    layer_cells,
    point_cells,
    stage_cells,
    total_cells,
    verdicts,
)
from flowprune.reporting.template import PageFigures, PageTable, summary_html

_COLORS = (METHOD_COLORS["plain"], METHOD_COLORS["ffr"], "#c2571a", "#7b5cd6", "#b8860b", "#c23b6b")


def flow_html(records: Mapping[str, FlowRecord], lead: str, environment: Mapping[str, Any]) -> str:
    """The page as a string; every text is escaped, plotly.js inlined once.

    Args:
        records: networks by name; the others are compared with the first.
        lead: what was measured.
        environment: versions and hardware.
    """
    colors = {name: _COLORS[position % len(_COLORS)] for position, name in enumerate(records)}
    stages = {name: record.stages for name, record in records.items()}
    chords = chords_figure(stages, colors)
    layers = any(record.layers for record in records.values())
    figures = [
        PageFigures("paths", "The paths of the classes", PATHS_NOTE, [(_networks(records), paths_figure(stages))]),
        PageFigures(
            "chords",
            "How straight the paths are",
            CHORDS_NOTE,
            [(_networks(records), chords)] if chords is not None else [],
        ),
        PageFigures(
            "flow",
            "Layer by layer",
            "How far the features move from one point to the next. A short step |d| can also mean that all features shrank, so "
            "read it beside |d| / |Y|.",
            [(_networks(records), flow_figure({name: record.points for name, record in records.items()}, colors))],
        ),
        PageFigures(
            "dead",
            "Dead filters",
            "Filters whose output deviates by less than a hundredth of the network's 90th percentile, layer by layer.",
            [(_networks(records), _dead_figure(records, colors))] if layers else [],
        ),
    ]
    totals, *details = _tables(records)
    return summary_html(
        f"The flow of {_networks(records)}",
        lead,
        tables=[totals],
        figures=figures,
        details=details,
        environment=environment,
    )


def _networks(records: Mapping[str, FlowRecord]) -> str:
    return " and ".join(records)


def _tables(records: Mapping[str, FlowRecord]) -> list[PageTable]:
    said = " ".join(f"{sentence}." for sentence in verdicts(records))
    tables = [
        PageTable(
            "totals",
            "In short" if len(records) > 1 else "Totals",
            f"{said} Straightness is net displacement over length, 1 for a straight path.".strip(),
            ("", *records),
            total_cells(records),
        ),
        PageTable(
            "stages",
            "Stages",
            "A stage is a run of points of one shape. Length: of every image's path, Euclidean over channels and positions, then "
            "in units of the features' mean size. A single step is always straight, so it has no straightness.",
            ("network", *STAGE_HEADERS),
            [(name, *cells) for name, record in records.items() for cells in stage_cells(record)],
            text_columns=3,
        ),
        PageTable(
            "points",
            "Points",
            "Means over images, channels and positions. d is the difference from the point before, c the second difference, the "
            "angle that between two successive d. A silent channel is one that a residual block adds nothing to.",
            ("network", *POINT_HEADERS),
            [(name, *cells) for name, record in records.items() for cells in point_cells(record)],
            text_columns=3,
        ),
    ]
    left_out = [
        (name, place, reason)
        for name, record in records.items()
        for place, reason in {**record.left_out, **record.stages_left_out}.items()
    ]
    if left_out:
        note = "Pairs of points that cannot be compared, and points out of reach."
        tables.append(PageTable("left-out", "Left out", note, ("network", "what", "why"), left_out, text_columns=3))
    if any(record.layers for record in records.values()):
        rows = [(name, *cells) for name, record in records.items() for cells in layer_cells(record)]
        note = "Filters of every convolution, and how many of them are dead; - where only data could tell."
        tables.append(PageTable("layers", "Layers", note, ("network", *LAYER_HEADERS), rows, text_columns=2))
    return tables


def _dead_figure(records: Mapping[str, FlowRecord], colors: Mapping[str, str]) -> go.Figure:
    figure = go.Figure()
    for name, record in records.items():
        rows = [row for row in record.layers if row.measured and row.filters]
        figure.add_bar(
            x=[plain_text(row.layer) for row in rows],
            y=[100 * row.dead / row.filters for row in rows],
            name=plain_text(name),
            marker={"color": colors[name]},
            customdata=[f"{row.dead} of {row.filters}" for row in rows],
            hovertemplate="%{x}: %{customdata} dead<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_yaxes(title_text="dead, per cent", range=[0, 100])
    return dressed(figure, 340)
