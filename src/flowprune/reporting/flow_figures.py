"""The figures of a flow's paths: each class's way through the plane, and how far paths stray from the straight line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flowprune.reporting.figures import by_network, dressed, method_color, plain_text
from flowprune.reporting.flow_comparison import Flow, verdict
from flowprune.reporting.results import RunResults, StageRow

PATHS_NOTE = (
    "Each line is the mean path of one class's images through the points of a stage, from the ring to the last dot. Every "
    "network is shown in the plane of the two principal components of its own paths, because two networks' features have no "
    "basis in common; the picture depends on the distances between the points alone. Both axes of a row have one scale for all "
    "networks, in units of the mean size of the features there (||Y||), so a shorter line is a shorter path relative to the "
    "features. Above each plane stands the share of the variance that it shows, and of the mean paths' length; what it does "
    "not show happens in other directions."
)
CHORDS_NOTE = (
    "Without any projection: how far each point lies along the straight line from a path's first point to its last, and how far "
    "off that line. Means over the paths of single images, in units of the features' mean size. A straight path stays on the "
    "axis. A path all of whose blocks but one do nothing is straight, too."
)

_CLASSES = (
    *("#4c78a8", "#f58518", "#e45756", "#3ba6a0", "#54a24b", "#c9a227", "#b279a2", "#ff7d98", "#9d755d", "#8a8f98"),
)
_ROW_HEIGHTS = {1: 430, 2: 430, 3: 340}
"""Of the planes, which are square, by how many stand side by side; 290 for more."""


def paths_figure(stages: Mapping[str, Sequence[StageRow]]) -> go.Figure:
    """The classes' mean paths: a row a stage, a column a network."""
    names = list(stages)
    count = max(len(rows) for rows in stages.values())
    height = _ROW_HEIGHTS.get(len(names), 290)
    labels = sorted({label for rows in stages.values() for row in rows for label in row.labels if label is not None})
    figure = make_subplots(
        rows=count,
        cols=len(names),
        subplot_titles=[_title(name, stages[name], row) for row in range(count) for name in names],
        horizontal_spacing=0.08 / len(names),
        vertical_spacing=(80 / height) / count,
    )
    met: set[int | None] = set()
    for row in range(count):
        shown = {name: stages[name][row] for name in names if row < len(stages[name])}
        reach = 1.12 * max((_reach(stage) for stage in shown.values()), default=0.0) or 1.0
        # Networks of one architecture are trained on the same classes: where an axis shows the mirror image, mirror it back.
        first = next(iter(shown.values()))
        for column, name in enumerate(names, start=1):
            if name not in shown:
                figure.update_xaxes(visible=False, row=row + 1, col=column)
                figure.update_yaxes(visible=False, row=row + 1, col=column)
                continue
            stage = shown[name]
            signs = _mirror(first, stage)
            for label, path in zip(stage.labels, stage.coordinates, strict=True):
                color = _CLASSES[labels.index(label) % len(_CLASSES)] if label is not None else _CLASSES[0]
                said = "all images" if label is None else f"class {label}"
                points = _points(stage)
                figure.add_scatter(
                    x=[signs[0] * x for x, _ in path],
                    y=[signs[1] * y for _, y in path],
                    mode="lines+markers",
                    name=said,
                    legendgroup=said,
                    showlegend=label not in met,
                    line={"color": color, "width": 2},
                    marker={
                        "size": [9, *([5] * (len(path) - 2)), 9],
                        "symbol": ["circle-open", *(["circle"] * (len(path) - 1))],
                    },
                    text=points,
                    hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}<extra>%{fullData.name}</extra>",
                    row=row + 1,
                    col=column,
                )
                met.add(label)
            axis = figure.get_subplot(row + 1, column)
            figure.update_xaxes(range=[-reach, reach], constrain="domain", row=row + 1, col=column)
            figure.update_yaxes(
                range=[-reach, reach],
                scaleanchor=axis.xaxis.plotly_name.replace("axis", ""),
                constrain="domain",
                row=row + 1,
                col=column,
            )
    figure.update_annotations(font={"size": 12})
    return _dressed(figure, 60 + height * count, top=84)


def chords_figure(stages: Mapping[str, Sequence[StageRow]], colors: Mapping[str, str]) -> go.Figure | None:
    """Distance from the straight line against distance along it, a panel a stage of two steps and more; None if there is none."""
    numbers = [
        number
        for number in range(max(len(rows) for rows in stages.values()))
        if any(number < len(rows) and len(rows[number].points) > 2 for rows in stages.values())
    ]
    if not numbers:
        return None
    across = max(2, min(3, len(numbers)))
    down = -(-len(numbers) // across)
    titles = []
    for number in numbers:
        stage = next(rows[number] for rows in stages.values() if number < len(rows))
        titles.append(plain_text(f"{stage.points[0]} … {stage.points[-1]}"))
    figure = make_subplots(rows=down, cols=across, subplot_titles=titles, vertical_spacing=0.3 / down)
    for position, number in enumerate(numbers):
        row, column = divmod(position, across)
        low = far = high = 0.0
        for name, rows in stages.items():
            if number >= len(rows):
                continue
            stage = rows[number]
            size = stage.scale or 1.0
            low, far = min(low, *(value / size for value in stage.along)), max(far, stage.net / size)
            high = max(high, *(value / size for value in stage.aside))
            straight = "-" if stage.straightness is None else f"{stage.straightness:.3f}"
            figure.add_scatter(
                x=[value / size for value in stage.along],
                y=[value / size for value in stage.aside],
                mode="lines+markers",
                name=plain_text(name),
                legendgroup=name,
                showlegend=position == 0,
                line={"color": colors[name], "width": 2},
                text=_points(stage),
                hovertemplate="%{text}<br>%{x:.3f} along, %{y:.3f} off"
                f"<br>straightness {straight}<extra>%{{fullData.name}}</extra>",
                row=row + 1,
                col=column + 1,
            )
        # One scale for both axes, or a path would look straighter than it is.
        place = {"row": row + 1, "col": column + 1}
        edge = 0.05 * max(far - low, high) or 0.5
        axis = figure.get_subplot(row + 1, column + 1).xaxis.plotly_name.replace("axis", "")
        figure.update_xaxes(title_text="along the straight line", range=[low - edge, far + edge], **place)
        figure.update_xaxes(constrain="domain", **place)
        figure.update_yaxes(
            title_text="off it" if column == 0 else "", range=[-edge, max(high, (far - low) / 3) + edge], **place
        )
        figure.update_yaxes(scaleanchor=axis, constrain="domain", **place)
    for empty in range(len(numbers), across * down):
        row, column = divmod(empty, across)
        figure.update_xaxes(visible=False, row=row + 1, col=column + 1)
        figure.update_yaxes(visible=False, row=row + 1, col=column + 1)
    figure.update_annotations(font={"size": 12})
    return _dressed(figure, 110 + 200 * down, top=64)


def run_paths(results: RunResults) -> list[tuple[str, str, go.Figure]]:
    """The paths of a run's networks, its methods side by side: (section, caption, figure); nothing for runs that kept none."""
    found: list[tuple[str, str, go.Figure]] = []
    totals = _by_method(results.flow_totals)
    for network, stages in _by_method(results.flow_stages).items():
        known = {method: rows for method, rows in stages.items() if rows}
        if not known:
            continue
        summed = totals.get(network, {})
        flows = [Flow(method, summed[method], rows) for method, rows in known.items() if method in summed]
        said = [verdict(flows[0], other) for other in flows[1:]]
        found.append(("paths", ". ".join([network, *said]), paths_figure(known)))
        chords = chords_figure(known, {method: method_color(method) for method in known})
        if chords is not None:
            found.append(("chords", network, chords))
    return found


def _by_method(keyed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Network -> method -> content."""
    return {
        network: {parts[0] or "": content for parts, content in runs} for network, runs in by_network(keyed, 2).items()
    }


def _title(name: str, rows: Sequence[StageRow], number: int) -> str:
    if number >= len(rows):
        return ""
    stage = rows[number]
    shape = "×".join(map(str, stage.shape))
    return (
        f"<b>{plain_text(name)}</b> · {shape}<br>{100 * sum(stage.explained):.0f} % of variance, "
        f"{100 * stage.visible:.0f} % of length"
    )


def _points(stage: StageRow) -> list[str]:
    first = f"{stage.points[0]}, carried into this shape" if stage.carried else stage.points[0]
    return [plain_text(name) for name in (first, *stage.points[1:])]


def _reach(stage: StageRow) -> float:
    return max((abs(value) for path in stage.coordinates for point in path for value in point), default=0.0)


def _mirror(first: StageRow, stage: StageRow) -> tuple[int, int]:
    """Signs of the two axes that bring a stage's paths closest to those of the first network."""
    if stage.labels != first.labels or len(stage.points) != len(first.points):
        return 1, 1
    products = [0.0, 0.0]
    for path, other in zip(stage.coordinates, first.coordinates, strict=True):
        for point, its in zip(path, other, strict=True):
            products = [total + a * b for total, a, b in zip(products, point, its, strict=True)]
    return (-1 if products[0] < 0 else 1), (-1 if products[1] < 0 else 1)


def _dressed(figure: go.Figure, height: int, top: int) -> go.Figure:
    """Room above the first row for titles of two lines, and for the legend above them."""
    figure = dressed(figure, height)
    figure.update_layout(margin={"t": top}, legend={"y": 1 + (top - 34) / (height - top - 56)})
    return figure
