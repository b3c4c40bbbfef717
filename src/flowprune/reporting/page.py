"""``report.html``: one page that needs no network, no server and no other file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from flowprune.errors import OutputError
from flowprune.reporting.figures import figures, networks
from flowprune.reporting.results import ResultRow, RunResults, checked_results
from flowprune.reporting.table import HEADERS, TEXT_COLUMNS, table_cells

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
    page = report_html(checked_results(results))
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def report_html(results: RunResults) -> str:
    """The page as a string. Every text of the results is escaped; plotly.js is inlined once."""
    drawn = figures(results)
    sections = []
    for name, title, note in SECTIONS:
        members = [
            {"id": f"figure-{index}", "caption": caption, "json": _script_json(figure.to_json())}
            for index, (section, caption, figure) in enumerate(drawn)
            if section == name
        ]
        if members:
            sections.append({"id": name, "title": title, "note": note, "figures": members})
    cells = table_cells(results)
    starts = [i for i, row in enumerate(results.rows) if i and row.network != results.rows[i - 1].network]
    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("flowprune.reporting").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return template.from_string(source).render(
        networks=networks(results),
        seed=results.seed,
        headers=HEADERS,
        text_columns=TEXT_COLUMNS,
        rows=list(zip(results.rows, cells, strict=True)),
        starts=starts,
        findings=[_finding(results, network) for network in networks(results)],
        sections=sections,
        environment=_flat(results.environment),
        recipe=yaml.safe_dump(_plain(results.recipe), sort_keys=False, allow_unicode=True, width=100),
        plotly=Markup(get_plotlyjs()) if sections else "",
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


def _script_json(text: str) -> Markup:
    """JSON that can stand inside a script element: no character in it can end the element or open another."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _flat(nested: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The environment as lines: nested names joined by a blank, lists by commas, what is empty left out."""
    lines: list[tuple[str, str]] = []
    for name, content in nested.items():
        label = f"{prefix} {name}".strip()
        if isinstance(content, Mapping):
            lines += _flat(content, "" if name == "packages" else label)
        elif isinstance(content, (list, tuple)):
            if content:
                lines.append((label, ", ".join(map(str, content))))
        elif content is not None:
            lines.append((label, str(content)))
    return lines


def _plain(content: Any) -> Any:
    """Only what YAML can show without tags."""
    if isinstance(content, Mapping):
        return {str(key): _plain(part) for key, part in content.items()}
    if isinstance(content, (list, tuple, set)):
        return [_plain(part) for part in content]
    return content if isinstance(content, (str, int, float, bool, type(None))) else str(content)
