"""Pages that need no network, no server and no other file: one frame, filled by whoever has something to show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
import yaml
from markupsafe import Markup

from flowprune.errors import OutputError


@dataclass(frozen=True)
class PageTable:
    """A table of a page; the first ``text_columns`` columns hold text, the rest numbers."""

    id: str
    title: str
    note: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


@dataclass(frozen=True)
class PageFigures:
    """A section of a page with figures, each under its caption."""

    id: str
    title: str
    note: str
    figures: Sequence[tuple[str, go.Figure]]


@dataclass(frozen=True)
class PagePicture:
    """A section of a page with one picture; ``source`` is a data URI."""

    id: str
    title: str
    note: str
    source: str


def summary_html(
    title: str,
    lead: str,
    *,
    tables: Sequence[PageTable] = (),
    figures: Sequence[PageFigures] = (),
    details: Sequence[PageTable] = (),
    pictures: Sequence[PagePicture] = (),
    recipe: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any],
) -> str:
    """A page of tables, figures, further tables and pictures, in this order, as a string. Every text is escaped."""
    return render(
        "summary.html.jinja",
        title=title,
        lead=lead,
        tables=tables,
        sections=page_sections(figures),
        details=details,
        pictures=pictures,
        recipe="" if recipe is None else recipe_text(recipe),
        environment=flat(environment),
    )


def page_sections(figures: Sequence[PageFigures]) -> list[dict[str, Any]]:
    """What the templates call ``sections``: figures numbered through the page."""
    number = 0
    sections = []
    for group in figures:
        members = []
        for caption, figure in group.figures:
            members.append({"id": f"figure-{number}", "caption": caption, "json": _script_json(figure.to_json())})
            number += 1
        if members:
            sections.append({"id": group.id, "title": group.title, "note": group.note, "figures": members})
    return sections


def render(template: str, *, sections: Sequence[Mapping[str, Any]], **context: Any) -> str:
    """Fill a template of this room; plotly.js is inlined once, if there is any figure."""

    def source(name: str) -> str:
        return files("flowprune.reporting").joinpath(name).read_text(encoding="utf-8")

    engine = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(source),
    )
    plotly = (
        Markup(plotly_js(figure["json"] for section in sections for figure in section["figures"])) if sections else ""
    )
    return engine.get_template(template).render(sections=sections, plotly=plotly, **context)


def plotly_js(drawn: Iterable[str]) -> str:
    """The smallest unmodified build of plotly.js that draws these figures (JSON): lines and bars, or all flat kinds of figures."""
    kinds = {kind for figure in drawn for kind in re.findall(r'"type":"([a-z0-9]+)"', figure)}
    build = "basic" if kinds <= {"scatter", "bar", "linear", "category", "log", "date"} else "cartesian"
    return files("flowprune.reporting").joinpath("plotly_js", f"plotly-{build}.min.js").read_text(encoding="utf-8")


def write_page(page: str, path: str | Path) -> None:
    """Put a page into a file, in one step.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def flat(nested: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The environment as lines: nested names joined by a blank, lists by commas, what is empty left out."""
    lines: list[tuple[str, str]] = []
    for name, content in nested.items():
        label = f"{prefix} {name}".strip()
        if isinstance(content, Mapping):
            lines += flat(content, "" if name == "packages" else label)
        elif isinstance(content, (list, tuple)):
            if content:
                lines.append((label, ", ".join(map(str, content))))
        elif content is not None:
            lines.append((label, str(content)))
    return lines


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """A recipe as YAML."""
    return yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True, width=100)


def _plain(content: Any) -> Any:
    """Only what YAML can show without tags."""
    if isinstance(content, Mapping):
        return {str(key): _plain(part) for key, part in content.items()}
    if isinstance(content, (list, tuple, set)):
        return [_plain(part) for part in content]
    return content if isinstance(content, (str, int, float, bool, type(None))) else str(content)


def _script_json(text: str) -> Markup:
    """JSON that can stand inside a script element: no character in it can end the element or open another."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
