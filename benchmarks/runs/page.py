"""Write the tables of docs/results.md anew from the results of every ``flowprune run``, and the README's few rows of them.

Every ``*.json`` under ``results/`` that is the ``results.json`` of a ``flowprune run`` becomes one table, with the file it is in
and the command that made it.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from written_pages import written

from flowprune.errors import ArtifactError
from flowprune.reporting import ResultRow, RunResults, load_results, markdown_table

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
IN_THE_README = ("digits", "resnet8", ("dense", "pruned"))
"""Which rows: of the runs of a name, a network's stages."""


def runs(folder: Path) -> dict[str, RunResults]:
    """File name -> results, of every run under ``folder`` but those of all presets; other JSON files are left out."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        if path.relative_to(folder).parts[0] in ("presets", "methods-on-digits"):
            continue  # these stand on pages of their own
        content = json.loads(path.read_text(encoding="utf-8"))
        # A comparison's runs are summed up in its own table.
        if isinstance(content, dict) and {"rows", "recipe", "environment", "seed"} <= content.keys():
            if "comparison" in content:
                continue
            try:
                found[path.relative_to(folder.parent).as_posix()] = load_results(path)
            except ArtifactError as error:
                sys.exit(str(error))
    return found


def section(found: Mapping[str, RunResults]) -> str:
    """The Markdown between the marks: over the seeds of each recipe, then every single run."""
    by_name: dict[str, list[tuple[str, RunResults]]] = {}
    for file, results in found.items():
        by_name.setdefault(str(results.recipe.get("name", "run")), []).append((file, results))
    parts = []
    for name, members in by_name.items():
        hardware = members[0][1].environment
        parts.append(f"### {name}\n")
        parts.append(
            f"`{command(name)}`, seeds {', '.join(str(results.seed) for _, results in members)}, on "
            f"{hardware.get('cpu', 'an unknown processor')} ({hardware.get('cores', '?')} cores"
            f"{''.join(', ' + gpu for gpu in hardware.get('gpus', []))}), torch "
            f"{hardware.get('packages', {}).get('torch', '?')}.\n"
        )
        if len(members) > 1:
            parts.append(over_seeds([results for _, results in members]))
        for file, results in members:
            parts.append(f"<details><summary>seed {results.seed}: <code>{file}</code></summary>\n")
            parts.append(markdown_table(results) + "\n</details>\n")
    return "\n".join(parts)


def command(name: str) -> str:
    """What was typed to make a run of this name."""
    if name == "digits":
        return "flowprune run --set training.seed=SEED --set finetuning.seed=SEED"
    return f"flowprune run recipes/{name}.yaml"


def few_rows(found: Mapping[str, RunResults]) -> str:
    """The rows that stand in the README."""
    name, network, stages = IN_THE_README
    runs_of_it = [results for results in found.values() if results.recipe.get("name") == name]
    return over_seeds(runs_of_it, lambda row: row.network == network and row.stage in stages)


def over_seeds(results: Sequence[RunResults], wanted: Callable[[ResultRow], bool] = lambda row: True) -> str:
    """Mean and standard deviation of each wanted row over the seeds."""
    lines = [
        "| network | method | stage | budget | top-1 % | MACs, M | params, k | dead filters % | removed |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    cases: dict[tuple[str, str, str, str | None], list[Any]] = {}
    for run in results:
        for row in filter(wanted, run.rows):
            cases.setdefault((row.network, row.method, row.stage, row.budget), []).append(row)
    for (network, method, stage, budget), rows in cases.items():
        removed = [row.filters_removed for row in rows if row.filters_removed is not None]
        cells = [
            spread([row.top1 for row in rows]),
            spread([row.macs / 1e6 for row in rows]),
            spread([row.params / 1e3 for row in rows], digits=1),
            spread([100 * row.dead_filters / row.filters for row in rows], digits=1),
            spread(removed, digits=0) if removed else "-",
        ]
        lines.append(f"| {network} | {method} | {stage} | {budget or '-'} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(numbers: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation (of the sample)."""
    mean = f"{statistics.mean(numbers):.{digits}f}"
    return mean if len(numbers) < 2 else f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    found = runs(root / "results")
    if not found:
        sys.exit("no run is committed in results/")
    every = written(root / "docs" / "results.md", BEGIN, END, f"{section(found)}\n")
    return max(every, written(root / "README.md", BEGIN, END, few_rows(found)))
