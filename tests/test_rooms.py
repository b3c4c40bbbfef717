"""The rooms of the package, as docs/architecture.md lists them, build on each other in one direction."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import flowprune

SOURCES = Path(flowprune.__file__).parent

VERBS = {"pruning", "heads", "iterating"}
"""Three files of one idea, one row of the table: prune calls for two cuts, and a cut is one call of prune."""


def room(name: str) -> str:
    return "pruning" if name in VERBS else name


def imported(tree: ast.AST) -> Iterator[str]:
    """Names of the package's modules that a file imports when it runs."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test):
        return
    if isinstance(tree, ast.ImportFrom) and tree.module == "flowprune":
        yield from (alias.name for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom) and tree.module is not None and tree.module.startswith("flowprune."):
        yield tree.module.split(".")[1]
    for child in ast.iter_child_nodes(tree):
        yield from imported(child)


def test_no_room_builds_on_one_that_builds_on_it() -> None:
    builds_on: dict[str, set[str]] = {}
    for path in SOURCES.rglob("*.py"):
        here = room(path.relative_to(SOURCES).parts[0].removesuffix(".py"))
        if here != "__init__":
            found = {room(name) for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
            builds_on.setdefault(here, set()).update(found - {here, "__version__"})
    assert {"tracing", "coupling", "surgery"} <= builds_on["branches"]
    try:
        TopologicalSorter(builds_on).prepare()
    except CycleError as error:
        raise AssertionError(f"rooms in a circle: {' -> '.join(error.args[1])}") from None


def test_every_room_is_in_the_architecture() -> None:
    document = (SOURCES.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in document.splitlines() if line.startswith("| `"))
    for path in SOURCES.iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"`{path.name}/`" in rows, path.name
        elif path.suffix == ".py" and not path.name.startswith("__"):
            assert f"`{path.name}`" in rows, path.name
