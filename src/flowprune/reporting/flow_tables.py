"""The tables of ``flowprune flow``, for the terminal and as cells for the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from flowprune.errors import counted
from flowprune.reporting.flow_comparison import TOTALS, Flow, verdict
from flowprune.reporting.flow_record import FlowRecord
from flowprune.reporting.table import ruled_table

POINT_HEADERS = ("point", "shape", "|Y|", "|d|", "|d|/|Y|", "|c|", "angle", "silent")
STAGE_HEADERS = ("stage", "shape", "steps", "length", "/ ||Y||", "straightness")
LAYER_HEADERS = ("layer", "filters", "dead")

Cells = tuple[str, ...]


def point_cells(record: FlowRecord) -> list[Cells]:
    """A row for each point, by ``POINT_HEADERS``; angles in degrees."""
    return [
        (
            point.name,
            _shape(point.shape),
            *(_number(value) for value in (point.magnitude, point.gradient, point.relative, point.curvature)),
            "-" if point.angle is None else f"{math.degrees(point.angle):.1f}°",
            "-" if point.silent is None else str(point.silent),
        )
        for point in record.points
    ]


def stage_cells(record: FlowRecord) -> list[Cells]:
    """A row for each stage, by ``STAGE_HEADERS``."""
    return [
        (
            f"{stage.points[0]} … {stage.points[-1]}",
            _shape(stage.shape),
            str(len(stage.steps)),
            _number(stage.length),
            _number(stage.length / stage.scale if stage.scale > 0 else None),
            _number(stage.straightness),
        )
        for stage in record.stages
    ]


def layer_cells(record: FlowRecord) -> list[Cells]:
    """A row for each convolution, by ``LAYER_HEADERS``."""
    return [(row.layer, str(row.filters), str(row.dead) if row.measured else "-") for row in record.layers]


def total_cells(records: Mapping[str, FlowRecord]) -> list[Cells]:
    """A row for each total, a column for each network, and for all but the first its share of the first's."""
    rows = []
    for key, title in TOTALS:
        values = [record.totals.get(key) for record in records.values()]
        cells = [title, _number(values[0])]
        for value in values[1:]:
            share = "" if value is None or not values[0] else f" ({value / values[0]:.2f}x)"
            cells.append(_number(value) + share)
        rows.append(tuple(cells))
    if all(record.layers for record in records.values()):
        dead = [
            f"{sum(row.dead for row in record.layers)} of {sum(row.filters for row in record.layers)}"
            for record in records.values()
        ]
        rows.append(("dead filters", *dead))
    return rows


def verdicts(records: Mapping[str, FlowRecord]) -> list[str]:
    """A sentence for every network but the first."""
    first, *others = (Flow(name, record.totals, record.stages) for name, record in records.items())
    return [verdict(first, other) for other in others]


def terminal_tables(records: Mapping[str, FlowRecord]) -> Iterator[Table]:
    """Everything, table by table, for the terminal."""
    for name, record in records.items():
        title = Text(f"{name}: the flow of {counted(record.images, 'image')}, point by point")
        yield ruled_table(title, POINT_HEADERS, point_cells(record), 2)
        yield ruled_table(Text("stage by stage"), STAGE_HEADERS, stage_cells(record), 2)
        if record.layers:
            yield ruled_table(Text("dead filters"), LAYER_HEADERS, layer_cells(record), 1)
    yield ruled_table(Text("totals"), ("", *records), total_cells(records), 1)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "-"


def _number(value: float | None) -> str:
    return "-" if value is None else format(value, ".4g")
