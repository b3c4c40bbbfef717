"""The wings of the package, and the rooms in them, build on each other in one direction, as docs/architecture.md lists them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import flowprune

SOURCES = Path(flowprune.__file__).parent

VERBS = "errors engine methods"
BUILDS_ON = {
    "errors": "",
    "old_paths": "",
    "registry": "errors",
    "engine": "errors old_paths",
    "methods": "errors old_paths registry engine",
    "models": "errors registry engine",
    "artifacts": "errors registry old_paths engine methods models",
    "pruning": VERBS,
    "explanation": VERBS,
    "training": "errors registry engine methods artifacts",
    "integrations": "errors engine methods",
    "reporting": "errors registry",
    "studies": "errors registry engine methods models artifacts pruning explanation training reporting",
    "commands": "errors registry engine methods models artifacts pruning explanation training reporting studies",
    "cli": "errors commands",
    "__main__": "cli",
}
"""Wing, or file beside the wings -> all that it may import."""

FLOORS = {
    "engine": "signatures tracing | measuring | coupling | interfaces steps | allocation | constants | surgery | planning "
    "| branches",
    "methods/presets": "preset | *",
    "methods": "importance allocators codecs | masks quantizers | regularizers replacements | recovery | decisions | presets",
    "methods/importance": "_spectra _passes _scores | _weights _maps | *",
    "methods/allocators": "_levels | _distortion | *",
    "methods/masks": "kept_weights | fixed_pattern | *",
    "methods/codecs": "_canonical | *",
    "methods/quantizers": "_shared_values _channelwise | *",
    "methods/recovery": "_calibration | *",
    "methods/regularizers": "strength together | feature_flow | *",
    "methods/regularizers/feature_flow": "points | maps | penalty | *",
    "studies/phases": "working criteria cuts_in_steps outcome_file named_regularizers | training_phase budgeted_phase | *",
    "studies": "recipe_file sections flow_paths sensitivity speed | preset_phases phases | recipe | pipeline "
    "| comparison compression toy",
}
"""Folder -> its rooms from the ground up. A room may import rooms of lower floors only; a star is every file that is not named."""


def modules() -> dict[str, Path]:
    """Every module of the package, by its full name."""
    found = {}
    for path in SOURCES.rglob("*.py"):
        parts = ("flowprune", *path.relative_to(SOURCES).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """The package's modules that a file imports anywhere: at its top, inside a function, or for its types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "flowprune":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "flowprune")


FOUND = {name: set(imported(path)) - {name} for name, path in MODULES.items() if name != "flowprune"}
"""The package itself is left out: what it hands out by name is imported when it is asked for, and it holds its version."""


def test_a_wing_builds_on_what_lies_below_it_only() -> None:
    assert {name.split(".")[1] for name in FOUND} == set(BUILDS_ON)
    wrong = [
        f"{name} imports {other}"
        for name, others in FOUND.items()
        for other in others - {"flowprune"}
        if other.split(".")[1] not in {name.split(".")[1], *BUILDS_ON[name.split(".")[1]].split()}
    ]
    assert not wrong


@pytest.mark.parametrize("folder", FLOORS)
def test_a_room_builds_on_lower_floors_only(folder: str) -> None:
    floors = [floor.split() for floor in FLOORS[folder].split("|")]
    height = {room: number for number, floor in enumerate(floors) for room in floor}
    prefix = f"flowprune.{folder.replace('/', '.')}."

    def room(name: str) -> str:
        first = name.removeprefix(prefix).split(".")[0]
        return first if first in height else "*"

    inside = {name: others for name, others in FOUND.items() if name.startswith(prefix)}
    assert "*" in height or all(room(name) != "*" for name in inside)
    wrong = [
        f"{name} imports {other}"
        for name, others in inside.items()
        for other in others
        if other.startswith(prefix) and room(other) != room(name) and height[room(other)] >= height[room(name)]
    ]
    assert not wrong


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(FOUND).prepare()
    except CycleError as error:
        raise AssertionError(f"files in a circle: {' -> '.join(error.args[1])}") from None


def test_the_listing_is_short_and_no_name_is_used_twice() -> None:
    files = {path.name for path in SOURCES.iterdir() if path.is_file()} - {"__init__.py", "__main__.py", "py.typed"}
    folders = {path.parent.relative_to(SOURCES).parts[0] for path in SOURCES.rglob("*.py") if path.parent != SOURCES}
    assert len(files) <= 6 and len(folders) <= 9
    named: dict[str, list[str]] = {}
    for name, path in MODULES.items():
        if path.name != "__init__.py":
            named.setdefault(path.name, []).append(name)
    twice = {name: places for name, places in named.items() if len(places) > 1}
    # `commands/run.py` is the command of `studies/pipeline/run.py`; each room of methods has a registry, of one class
    assert set(twice) <= {"run.py", "registry.py"}, twice


def test_every_file_is_read_in_one_sitting() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > 300} == {}


def test_every_wing_and_room_is_in_the_architecture() -> None:
    document = (SOURCES.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in document.splitlines() if line.startswith("| `"))
    for path in SOURCES.iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"`{path.name}/`" in rows, path.name
        elif path.suffix == ".py" and not path.name.startswith("__"):
            assert f"`{path.name}`" in rows, path.name
    for wing in ("engine", "methods", "studies"):
        for path in (SOURCES / wing).iterdir():
            if path.is_dir() and (path / "__init__.py").exists():
                assert f"`{path.name}/`" in rows, path.name
