"""The figures of the page, as Plotly figures without colours of page or text: those follow the reader's light or dark mode."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flowprune.reporting.results import ChannelRow, PointRow, ResultRow, RunResults, split_key

METHOD_COLORS = {"plain": "#7a869a", "ffr": "#0f9d8a"}
"""Readable on white and on near-black; grey-blue for the control, teal for the flow."""

_OTHER_COLORS = ("#c2571a", "#7b5cd6", "#b8860b", "#c23b6b")
_DASHES = ("solid", "dot", "dash", "dashdot")
_STAGES = ("dense", "pruned", "finetuned")
_SYMBOLS = {"dense": "circle", "pruned": "x", "finetuned": "diamond"}


def networks(results: RunResults) -> list[str]:
    """The networks of a run, in the order of its rows."""
    return list(dict.fromkeys(row.network for row in results.rows))


def accuracy_figure(results: RunResults, network: str) -> go.Figure:
    """Top-1 against MACs: a line from the dense model over the pruned to the fine-tuned one, per method and budget."""
    figure = go.Figure()
    rows = [row for row in results.rows if row.network == network]
    budgets = list(dict.fromkeys(row.budget for row in rows if row.budget is not None))
    for method in dict.fromkeys(row.method for row in rows):
        dense = [row for row in rows if row.method == method and row.stage == "dense"]
        paths: list[tuple[str | None, list[ResultRow]]] = [
            (budget, [*dense, *(row for row in rows if row.method == method and row.budget == budget)])
            for budget in budgets
        ]
        for budget, path in paths or [(None, [row for row in rows if row.method == method])]:
            if all(row.stage in _STAGES for row in path):
                path = sorted(path, key=lambda row: _STAGES.index(row.stage))
            figure.add_scatter(
                x=[row.macs / 1e6 for row in path],
                y=[row.top1 for row in path],
                mode="lines+markers",
                name=plain_text(" · ".join(filter(None, (method, budget)))),
                line={"color": method_color(method), "dash": _dash(budgets, budget), "width": 1.5},
                marker={
                    "size": 10,
                    "symbol": [_SYMBOLS.get(row.stage.partition("-")[0], "square") for row in path],
                },
                text=[row.stage for row in path],
                hovertemplate="%{text}<br>%{x:.2f}M MACs<br>%{y:.2f} %<extra>%{fullData.name}</extra>",
            )
    figure.update_xaxes(title_text="multiply-accumulates per image, millions", rangemode="tozero")
    figure.update_yaxes(title_text="top-1, per cent")
    return dressed(figure, 360)


def flow_figure(profiles: Mapping[str, Sequence[PointRow]], colors: Mapping[str, str] | None = None) -> go.Figure:
    """Gradient, relative gradient, curvature and silent channels along one network, one line per method.

    ``colors`` are for what has no colour as a method.
    """
    panels: list[tuple[str, str]] = [
        ("gradient", "gradient |d|"),
        ("relative", "|d| / |Y|"),
        ("curvature", "curvature |c|"),
        ("silent", "silent channels"),
    ]
    panels = [
        (field, title)
        for field, title in panels
        if any(getattr(point, field) is not None for points in profiles.values() for point in points)
    ] or panels[:1]
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for method, points in profiles.items():
        for row, (field, _) in enumerate(panels, start=1):
            figure.add_scatter(
                x=[plain_text(point.name) for point in points],
                y=[getattr(point, field) for point in points],
                mode="lines+markers",
                name=plain_text(method),
                legendgroup=method,
                showlegend=row == 1,
                line={"color": colors[method] if colors is not None else method_color(method), "width": 2},
                hovertemplate="%{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
                row=row,
                col=1,
            )
    for row, (_, title) in enumerate(panels, start=1):
        figure.update_yaxes(title_text=title, rangemode="tozero", row=row, col=1)
    figure.update_xaxes(title_text="point of the flow, from input to output", row=len(panels), col=1)
    return dressed(figure, 100 + 165 * len(panels))


def channels_figure(layers: Mapping[str, Sequence[ChannelRow]]) -> go.Figure:
    """Channels kept in each layer of one network under one budget, methods side by side, the dense width behind."""
    figure = go.Figure()
    names = list(dict.fromkeys(row.layer for rows in layers.values() for row in rows))
    dense = {row.layer: row.dense for rows in layers.values() for row in rows}
    figure.add_bar(
        x=[plain_text(name) for name in names],
        y=[dense[name] for name in names],
        name="dense",
        marker={"color": "rgba(128,136,150,0.22)"},
        xaxis="x2",
        hovertemplate="%{x}: %{y}<extra>dense</extra>",
    )
    for method, rows in layers.items():
        figure.add_bar(
            x=[plain_text(row.layer) for row in rows],
            y=[row.kept for row in rows],
            name=plain_text(method),
            marker={"color": method_color(method)},
            hovertemplate="%{x}: %{y} kept<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(
        barmode="group",
        bargap=0.25,
        xaxis={"title": {"text": "layer"}},
        # The dense widths lie on an axis of their own, so that the methods' bars stand in front of them, not beside them.
        xaxis2={"overlaying": "x", "matches": "x", "visible": False},
    )
    figure.update_yaxes(title_text="output channels")
    return dressed(figure, 380)


def curves_figure(histories: Mapping[tuple[str, str, str | None], Sequence[Mapping[str, Any]]]) -> go.Figure:
    """Loss and accuracy by epoch: of the training, then of the fine-tuning; what has no curve of two epochs has no panel.

    Args:
        histories: (method, stage, budget) -> one dictionary per epoch.
    """
    budgets = list(dict.fromkeys(budget for _, stage, budget in histories if stage != "dense"))
    in_order = sorted(histories.items(), key=lambda item: _STAGES.index(item[0][1]) if item[0][1] in _STAGES else 1)
    titles = {"task_loss": "task loss", "test_accuracy": "test accuracy, per cent"}
    panels: dict[tuple[bool, str], list[go.Scatter]] = {(t, field): [] for t in (False, True) for field in titles}
    named: set[str] = set()
    for (method, stage, budget), epochs in in_order:
        tuned = stage != "dense"
        for field in titles:
            points = [(epoch.get("epoch", n), epoch.get(field)) for n, epoch in enumerate(epochs, start=1)]
            seen = [(number, value) for number, value in points if value is not None]
            if len(seen) < 2:  # one dot is no curve
                continue
            group = f"{method}/{stage}/{budget}"
            line = {
                "color": method_color(method),
                "dash": _dash(budgets, budget) if tuned else "solid",
                "width": 2,
            }
            panels[tuned, field].append(
                go.Scatter(
                    x=[number for number, _ in seen],
                    y=[value for _, value in seen],
                    mode="lines",
                    name=plain_text(" · ".join(filter(None, (method, budget if tuned else "training")))),
                    legendgroup=group,
                    showlegend=group not in named,
                    line=line,
                    hovertemplate="epoch %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
                )
            )
            named.add(group)
    drawn = {panel: lines for panel, lines in panels.items() if lines}
    figure = make_subplots(rows=max(len(drawn), 1), cols=1, vertical_spacing=0.3 / max(len(drawn), 1))
    for row, ((tuned, field), lines) in enumerate(drawn.items(), start=1):
        figure.add_traces(lines, rows=row, cols=1)
        figure.update_xaxes(title_text="epoch of fine-tuning" if tuned else "epoch of training", row=row, col=1)
        figure.update_yaxes(title_text=titles[field], row=row, col=1)
        if field == "task_loss":
            figure.update_yaxes(rangemode="tozero", row=row, col=1)
    return dressed(figure, 120 + 200 * max(len(drawn), 1))


def figures(results: RunResults) -> list[tuple[str, str, go.Figure]]:
    """Every figure of the page: (section, caption, figure), by section in reading order."""
    found: list[tuple[str, str, go.Figure]] = []
    for network in networks(results):
        if sum(row.network == network for row in results.rows) > 1:  # one dot shows nothing
            found.append(("accuracy", network, accuracy_figure(results, network)))
    for network, profiles in by_network(results.flow_profiles, 2).items():
        by_method = {parts[0] or "": points for parts, points in profiles if len(points) > 1}
        if not by_method:
            continue
        found.append(("flow", network, flow_figure(by_method)))
    for network, cuts in by_network(results.channels, 3).items():
        for budget in dict.fromkeys(parts[1] for parts, _ in cuts):
            layers = {parts[0] or "": rows for parts, rows in cuts if parts[1] == budget}
            found.append(("channels", " · ".join(filter(None, (network, budget))), channels_figure(layers)))
    for network, runs in by_network(results.histories, 4).items():
        curves = {(parts[0] or "", parts[1] or "dense", parts[2]): epochs for parts, epochs in runs if len(epochs) > 1}
        if not curves:
            continue
        found.append(("curves", network, curves_figure(curves)))
    return found


def by_network(keyed: Mapping[str, Any], parts: int) -> dict[str, list[tuple[list[str | None], Any]]]:
    """Split the keys and gather what belongs to one network."""
    found: dict[str, list[tuple[list[str | None], Any]]] = {}
    for key, content in keyed.items():
        network, *rest = split_key(key, parts)
        found.setdefault(network or "", []).append((rest, content))
    return found


def plain_text(name: str) -> str:
    """Plotly reads a subset of HTML in names; a name is only a name."""
    return html.escape(name, quote=False)


def method_color(method: str) -> str:
    """The colour of a method in every figure."""
    return METHOD_COLORS.get(method, _OTHER_COLORS[sum(method.encode()) % len(_OTHER_COLORS)])


def _dash(budgets: Iterable[str | None], budget: str | None) -> str:
    order = list(budgets)
    return _DASHES[order.index(budget) % len(_DASHES)] if budget in order else "solid"


def dressed(figure: go.Figure, height: int) -> go.Figure:
    """Without colours of page or text, ``height`` pixels high, with the legend above."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 44, "b": 56},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1 + 14 / height, "yanchor": "bottom"},
        hovermode="closest",
        font={"size": 13},
    )
    figure.update_xaxes(automargin=True, zeroline=False, ticks="", title_standoff=10)
    figure.update_yaxes(automargin=True, zeroline=False, ticks="", title_standoff=8)
    return figure
