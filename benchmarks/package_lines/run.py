"""Count the lines of the package, here and in an older checkout, without the examples in its docstrings.

    python benchmarks/package_lines/run.py [--before CHECKOUT] [--files]

A line of an example is one that a docstring's ``>>>`` prompt, its continuation or its expected output stands on, and the heading
``Example:`` with the blank line in front of it. What came in since the older checkout is listed by what it is for; ``--files``
names its files, too. A file that replaces an older one counts in a group with what it has more than that. A file that stood
before counts with what the commits of a group have brought to it: the lines that came less those that went, and no more than
what stands today of the lines they wrote. What they took out of it, mostly into files of the group, is taken off.
"""

from __future__ import annotations

import argparse
import ast
import doctest
import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ADDED: dict[str, tuple[str, ...]] = {
    "soundness": (),
    "methods of the literature, and what hands them in": (
        "artifacts/carried_steps.py",
        "artifacts/integer_weights.py",
        "engine/interfaces/*",
        "engine/measuring/single_weights.py",
        "engine/planning/*_problem.py",
        "engine/planning/decided.py",
        "engine/planning/unread_channels.py",
        "engine/steps/*",
        "methods/allocators/*",
        "methods/codecs/*",
        "methods/decisions/*",
        "methods/importance/dependency_aware.py",
        "methods/importance/weight_scores/*",
        "methods/masks/*",
        "methods/presets/*",
        "methods/quantizers/*",
        "methods/recovery/*",
        "methods/regularizers/*",
        "methods/replacements/*",
    ),
    "forms and units of feature flow regularization": (
        "methods/importance/flow_length.py",
        *(
            f"methods/regularizers/feature_flow/{name}.py"
            for name in [
                "by_steps",
                "followed",
                "form",
                "penalty/between_processes",
                "penalty/fused_passes",
                "points/makers",
                "stream_penalty",
                "ways",
            ]
        ),
    ),
    "recipes of phases": ("studies/phases/*", "studies/preset_phases.py", "studies/sections.py"),
    "training": ("training/*", "studies/pipeline/chosen_precision.py"),
    "other people's loops": ("integrations/*",),
    "speed, measured": (
        *(
            f"engine/measuring/{name}.py"
            for name in [
                "attention_in_onnx",
                "backends",
                "evaluation_mode",
                "layer_times",
                "live_memory",
                "onnx_program",
                "preferred_widths",
                "zero_products",
            ]
        ),
        "engine/planning/liked_widths.py",
        "studies/speed/*",
    ),
    "compressing a model of one's own": ("studies/compression/*", "studies/sensitivity/by_sensitivity.py"),
    "the command line, and names known before torch is": ("commands/*", "cli.py", "models/own_names.py"),
    "predictions and the report's first screen": ("artifacts/onnx_session.py", "reporting/gains.py"),
}
"""What was added, by what for; the first group that a file fits counts it, one that names the file before all others."""

BROUGHT = {
    "soundness": ("3498113", "8ae85bf", "405247e", "7126d53"),
    "methods of the literature, and what hands them in": (
        *("9dcf1f5", "016d28b", "1c9bc61", "dccc502", "73895b1", "774c750", "232c702", "a4af2f9", "8780a80"),
        *("b149fa4", "906db5f", "33cc1e7", "4b57295", "e70fe8f", "b94435e", "d7524ad", "75eff97", "4c7f766"),
        *("52ebf59", "5ded452", "cfd239f", "f4d542e", "923cd8b", "bddf974"),
    ),
    "forms and units of feature flow regularization": ("6f8b72e", "61ef67a"),
    "recipes of phases": ("4585312", "12655f7", "649c3da", "8ea383a", "afae5be", "4f5ee33"),
    "training": ("1fd83d5",),
    "speed, measured": ("2deae7f",),
    "compressing a model of one's own": ("a77c23e",),
    "the command line, and names known before torch is": ("c9f1e49", "45ccd6d", "e10c298", "facc8aa"),
    "predictions and the report's first screen": ("37f3382", "c4e4d9a", "2d72029"),
}
"""The commits of a group that went into files which stood before, all but one after the move; ``git show`` says what for."""

NOW_IN = re.compile("^(pipeline/|comparison/)")
"""Where the one commit that came before the move says less than the path of today."""

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
    "the command line, and names known before torch is": ("commands/*", "cli.py"),
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
    found: dict[str, int] = {}
    for line in git("diff", "--numstat", SOUNDNESS, "--", "src/flowprune").splitlines():
        came, went, path = line.split("\t")
        file = path.removeprefix("src/flowprune/")
        if file.endswith(".py") and not file.startswith(BESIDE_IT):
            found[file] = int(came) - int(went)
    return found


def git(*arguments: str) -> str:
    """What git answers in this checkout."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def brought(commits: tuple[str, ...], files: set[str]) -> dict[str, int]:
    """File of ``files`` -> lines without examples that the commits have brought to it, at most what still stands of theirs."""
    came: dict[str, int] = {}
    for commit in commits:
        told = git("diff", "--name-status", "--no-renames", f"{commit}^", commit, "--", "src/flowprune")
        for line in told.splitlines():
            status, path = line.split("\t")
            file = NOW_IN.sub(r"studies/\1", path.removeprefix("src/flowprune/"))
            if file in files:
                lines, examples = counted(git("show", f"{commit}:{path}"))
                had, had_examples = counted(git("show", f"{commit}^:{path}")) if status == "M" else (0, 0)
                came[file] = came.get(file, 0) + (lines - examples) - (had - had_examples)
    return {file: min(net, written_by(commits, file)) for file, net in came.items()}


def written_by(commits: tuple[str, ...], file: str) -> int:
    """How many of a file's lines were last written by one of the commits."""
    return sum(
        line.startswith(commits) for line in git("blame", "-s", "-l", "--", f"src/flowprune/{file}").splitlines()
    )


def group_of(file: str, groups: dict[str, tuple[str, ...]]) -> str:
    """The first group with a pattern that fits a file; "" for none, and for what stood there before."""
    named = next((name for name, patterns in groups.items() if file in patterns), "")
    if named:
        return named
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
    stood = {file for file in plain if not group_of(file, ADDED)}
    groups = {
        name: [(count, file) for file, count in plain.items() if group_of(file, ADDED) == name]
        + [(-count, f"{file} before") for file, count in older.items() if group_of(file, REPLACED) == name]
        + [(count, f"{file}, what it has grown by") for file, count in brought(BROUGHT.get(name, ()), stood).items()]
        for name in ADDED
    }
    groups["soundness"] += [(count, f"{file} at 0bdf5ae") for file, count in soundness().items()]
    sums = {name: sum(count for count, _ in entries) for name, entries in groups.items()}
    whole = sum(plain.values())
    rest = whole - sum(sums.values())
    numbers = {
        "before": sum(older.values()),
        "before with examples": sum(lines for lines, _ in before.values()),
        "after": whole,
        "after with examples": sum(lines for lines, _ in after.values()),
        "added": sums,
        "after without soundness": whole - sums["soundness"],
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
    for name, entries in groups.items() if before else ():
        print(f"  of these, added for {name}: {sums[name]:,}")
        for count, file in sorted(entries, key=lambda entry: entry[1]) if arguments.files else ():
            print(f"    {count:5d} {file}")
    if before:
        print(f"now without soundness: {whole - sums['soundness']:,}")
        print(f"now without all that was added: {rest:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
