"""What ``flowprune flow`` writes about each network, typed."""

from __future__ import annotations

from pydantic import Field

from flowprune.reporting.results import PointRow, Record, StageRow


class LayerRow(Record):
    """How many of a convolution's filters are dead; ``measured`` is False where only data could tell."""

    layer: str
    filters: int
    dead: int
    measured: bool = True


class FlowRecord(Record):
    """The flow of one network.

    Attributes:
        images: how many were measured.
        points, stages: point by point, stage by stage.
        totals: the flow in a few numbers, by name.
        left_out, stages_left_out: what does not enter, or is not drawn: name -> reason.
        layers: the convolutions' dead filters.
    """

    images: int
    points: list[PointRow]
    stages: list[StageRow]
    totals: dict[str, float | None]
    left_out: dict[str, str] = Field(default_factory=dict)
    stages_left_out: dict[str, str] = Field(default_factory=dict)
    layers: list[LayerRow] = Field(default_factory=list)
