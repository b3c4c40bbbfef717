"""Count the lines of the package, here and in an older checkout, without the examples in its docstrings.

    python benchmarks/package_lines/run.py [--before CHECKOUT] [--files]

A line of an example is one that a docstring's ``>>>`` prompt, its continuation or its expected output stands on, and the heading
``Example:`` with the blank line in front of it. What came in since the older checkout is listed by what it is for; ``--files``
names its files, too. A file that replaces an older one counts in a group with what it has more than that.
"""

from __future__ import annotations

import argparse
import ast
import doctest
import json
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ADDED: dict[str, tuple[str, ...]] = {
    "methods of the literature, and what hands them in": (
        "engine/interfaces/*",
        "engine/measuring/single_weights.py",
        "engine/planning/*_problem.py",
        "engine/planning/decided.py",
        "engine/steps/*",
        "methods/__init__.py",
        "methods/allocators/*",
        "methods/codecs/*",
        "methods/importance/weight_scores/*",
        "methods/masks/*",
        "methods/presets/*",
        "methods/quantizers/*",
        "methods/recovery/*",
        "methods/regularizers/*",
        "methods/replacements/*",
    ),
    "recipes of phases": ("studies/phases/*", "studies/preset_phases.py", "studies/sections.py"),
    "training": ("training/*", "studies/pipeline/chosen_precision.py"),
    "other people's loops": ("integrations/*",),
    "speed, measured": (
        *(
            f"engine/measuring/{name}.py"
            for name in ["backends", "layer_times", "live_memory", "onnx_program", "preferred_widths", "zero_products"]
        ),
        "studies/speed/*",
    ),
    "the command line": ("commands/*", "cli.py"),
    "old import paths": ("old_paths.py",),
}
"""What was added, by what for; the first group that a file fits counts it."""

STOOD = (
    "methods/regularizers/feature_flow/*",
    "methods/regularizers/ffr.py",
    "methods/regularizers/registry.py",
    *(
        f"methods/regularizers/strength/{name}.py"
        for name in [
            "control",
            "dead_share",
            "given_strength",
            "observed_loss",
            "percentages",
            "saved_state",
            "steering",
        ]
    ),
)
"""What the patterns would fit, too, and was there before, under another name."""

SOUNDNESS = "eb1960c..0bdf5ae"
"""The revisions between which issue 13 was carried out, before any file was moved. It stands in files of its own and in many older
ones, so it is counted as the lines that came, less those that went."""
BESIDE_IT = ("training/", "pipeline/", "comparison/", "recipe", "sensitivity_scan/")
"""Where other work went on meanwhile."""

REPLACED = {
    "methods of the literature, and what hands them in": (
        "lineage.py",
        "regularizers/interface.py",
        "importance/protocol.py",
    ),
    "recipes of phases": ("pipeline/between.py", "pipeline/criteria.py"),
    "training": ("training/*",),
    "other people's loops": ("integrations/*",),
    "the command line": ("commands/*", "cli.py"),
}
"""The older checkout's files that those of a group stand in the place of."""


def counted(text: str) -> tuple[int, int]:
    """(lines, those of them that belong to examples in docstrings) of a file."""
    examples: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            inside = text.splitlines()[first.lineno - 1 : first.end_lineno]
            examples |= {first.lineno + number for number in _example_lines(inside)}
    return len(text.splitlines()), len(examples)


def _example_lines(lines: list[str]) -> set[int]:
    """Which lines of a docstring, as it stands in the file, belong to its examples."""
    closed = [line.rstrip().removesuffix('"""') for line in lines]
    found: set[int] = set()
    for example in doctest.DocTestParser().get_examples("\n".join(closed)):
        height = example.source.count("\n") + example.want.count("\n")
        found |= set(range(example.lineno, example.lineno + height))
    if found:
        heading = min(found) - 1
        if closed[heading].strip() in ("Example:", "Examples:"):
            found |= {heading, heading - 1}
    return found


def package(source: Path) -> dict[str, tuple[int, int]]:
    """File of the package -> (lines, lines of examples)."""
    return {
        path.relative_to(source).as_posix(): counted(path.read_text(encoding="utf-8"))
        for path in sorted(source.rglob("*.py"))
    }


def soundness() -> dict[str, int]:
    """File of the package, as it was called then -> the lines that soundness has added to it."""
    asked = ["git", "diff", "--numstat", SOUNDNESS, "--", "src/flowprune"]
    told = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found: dict[str, int] = {}
    for line in told.splitlines():
        came, went, path = line.split("\t")
        file = path.removeprefix("src/flowprune/")
        if file.endswith(".py") and not file.startswith(BESIDE_IT):
            found[file] = int(came) - int(went)
    return found


def group_of(file: str, groups: dict[str, tuple[str, ...]]) -> str:
    """The first group with a pattern that fits a file; "" for none, and for what stood there before."""
    if any(fnmatch(file, pattern) for pattern in STOOD):
        return ""
    return next((name for name, patterns in groups.items() if any(fnmatch(file, p) for p in patterns)), "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--before", type=Path, help="an older checkout")
    parser.add_argument("--files", action="store_true", help="name every file of the groups")
    parser.add_argument("--json", action="store_true", help="the numbers as JSON")
    arguments = parser.parse_args()
    after = package(ROOT / "src" / "flowprune")
    before = package(arguments.before / "src" / "flowprune") if arguments.before is not None else {}
    plain = {file: lines - examples for file, (lines, examples) in after.items()}
    older = {file: lines - examples for file, (lines, examples) in before.items()}
    sound = soundness() if before else {}
    groups = {"soundness": sum(sound.values())} | {
        name: sum(count for file, count in plain.items() if group_of(file, ADDED) == name)
        - sum(count for file, count in older.items() if group_of(file, REPLACED) == name)
        for name in ADDED
    }
    whole = sum(plain.values())
    rest = whole - sum(groups.values())
    numbers = {
        "before": sum(older.values()),
        "before with examples": sum(lines for lines, _ in before.values()),
        "after": whole,
        "after with examples": sum(lines for lines, _ in after.values()),
        "added": groups,
        "after without soundness": whole - groups["soundness"],
        "after without what was added": rest,
    }
    if arguments.json:
        print(json.dumps(numbers, indent=1))
        return 0
    if before:
        print(
            f"before: {numbers['before']:,} lines ({numbers['before with examples']:,} with the examples in docstrings)"
        )
    print(f"now:    {whole:,} lines ({numbers['after with examples']:,} with the examples in docstrings)")
    for name, count in groups.items() if before else ():
        print(f"  of these, added for {name}: {count:,}")
        files = sound if name == "soundness" else {f: n for f, n in plain.items() if group_of(f, ADDED) == name}
        for file, lines in sorted(files.items()) if arguments.files else ():
            print(f"    {lines:5d} {file}")
    if before:
        print(f"now without soundness: {whole - groups['soundness']:,}")
        print(f"now without all that was added: {rest:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
