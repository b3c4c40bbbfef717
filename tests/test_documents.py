"""What the pages name is there: links, files, scripts, commands and their options."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
from documents import ROOT, text_of

from flowprune.cli import app

PAGES = [
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "docs/methods/*.md")
    for path in sorted(ROOT.glob(pattern))
]  # of this project, not of what lies in its virtual environment
PACKAGE = ROOT / "src" / "flowprune"
WINGS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
PLACEHOLDER = re.compile(r"[A-Z]{4,}|seedN|…|<")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def command_lines(page: str) -> list[str]:
    """Every ``flowprune ...``: lines of a block of commands, and what stands between two backticks."""
    text = text_of(page)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for language, block in blocks if language in ("", "sh") for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += re.findall(r"`([^`\n]+)`", prose)
    return [line for line in lines if re.match(r"(accelerate launch -m )?flowprune [a-z]", line)]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_every_file_named_is_there(page: str) -> None:
    text = text_of(page)
    missing = [
        link
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
        if not link.startswith(("http://", "https://")) and not (ROOT / page).parent.joinpath(link).exists()
    ]
    named = re.findall(r"`(?:python )?((?:results|benchmarks|tests|recipes|docs|src|examples)/[^`\s:]*)", text)
    missing += [path for path in named if not PLACEHOLDER.search(path) and not list(ROOT.glob(path.rstrip("/")))]
    inside = re.findall(rf"`((?:{'|'.join(WINGS)})/[^`\s:]*)", text)
    missing += [path for path in inside if not list(PACKAGE.glob(path.rstrip("/")))]
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)])
def test_every_command_takes_the_options_it_is_shown_with(page: str) -> None:
    for line in command_lines(page):
        words = shlex.split(line.partition("flowprune ")[2], comments=True)
        name = words[0]
        assert name in COMMANDS, line
        known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        for word in words[1:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, line
            if word.startswith("recipes/"):
                assert (ROOT / word).is_file(), line


def test_the_readme_shows_every_command() -> None:
    shown = {shlex.split(line, comments=True)[1] for line in command_lines("README.md") if line.startswith("flowprune")}
    assert shown == set(COMMANDS)
