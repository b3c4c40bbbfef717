"""Write docs/methods.md, and docs/methods/NAME.md for every preset, from the presets' files and results/presets.

    python benchmarks/pages.py presets [--check]

``--check`` changes nothing and fails if a page is out of date, missing, or of a preset that is gone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from written_pages import all_written

from flowprune.methods.presets import KINDS, REGISTRY, Preset

ROOT = Path(__file__).resolve().parents[2]
INDEX, FOLDER, RESULTS = ROOT / "docs/methods.md", ROOT / "docs/methods", ROOT / "results/presets"

NETWORKS = {
    "linear": "network of linear layers: first, hidden, head",
    "grouped": "with a grouped convolution: stem, plain, grouped, pointwise, head",
    "depthwise": "with a depthwise convolution: stem, plain, depthwise, pointwise, head",
    "transformer": "transformer: patches, attention, feed_forward, head",
}
"""The tiny networks that a preset's ``layers`` speaks of, and their layers."""

HOW = """
A recipe is a list of phases, in order: `train`, `mask`, `replace`, `quantize`, `cut` and `recover`, each with settings of its own.
What is done to a budget is done to each one by itself, and all that follows it once for every budget. The sections `training`,
`flow`, `pruning` and `finetuning` are the short form of `train`, `cut`, `recover`; where phases are listed, `training` (in
recoveries `finetuning`) is what their own `training` leaves out. A killed run goes on within its phase.

```yaml
network: {name: resnet8, options: {in_channels: 1}}
data: {name: digits}
methods: [pushed]
training: {batch_size: 32, augmentation: null}
phases:
  - {phase: train, training: {epochs: 20}}
  - {phase: train, training: {epochs: 10, lr: 0.001}, regularizers: [{name: tpp, options: {ratio: 0.5}}]}
  - {phase: cut}                                     # no budget: what the training before decided leaves
  - {phase: recover, training: {epochs: 5, lr: 0.01}, recoveries: [distillation]}
```

A new system is a file beside those, and at most one new file in each room of methods that it needs. One of another package is an
entry point of the group `flowprune.presets`: a mapping like such a file, or the path of one.
"""


def results_of(name: str) -> list[dict[str, Any]]:
    """What the short forms came to, seed by seed."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob(f"{name}-seed*.json"))]


def rows_of(results: list[dict[str, Any]]) -> list[str]:
    """The rows of all seeds as a table."""
    headers = ("seed", "stage", "budget", "top-1 %", "parameters", "MACs", "dead filters")
    lines = ["| " + " | ".join(headers) + " |", "| ---: | --- | --- | ---: | ---: | ---: | ---: |"]
    for result in results:
        for row in result["rows"]:
            cells = [row["stage"], row["budget"] or "-", f"{row['top1']:.2f}", f"{row['params']:,}", f"{row['macs']:,}"]
            lines.append(
                "| " + " | ".join([str(result["seed"]), *cells, f"{row['dead_filters']} of {row['filters']}"]) + " |"
            )
    return lines


def page_of(preset: Preset) -> str:
    """The page of a preset."""
    asked = ", ".join(f"`{kind}`" for kind in preset.takes) or "none: it keeps what it keeps"
    phases = yaml.safe_dump(preset.phases, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    found = results_of(preset.name)
    lines = [
        f"# {preset.title}",
        "",
        f"`flowprune run --method {preset.name}` trains a small network on digits with it;",
        f"`flowprune run RECIPE --method {preset.name}` takes a recipe's network, data and budgets.",
        "",
        preset.about,
        "",
        f"    {preset.equation}",
        "",
        f"{preset.paper}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| kind | {preset.kind} |",
        f"| budgets | {asked} |",
        f"| fidelity | {preset.fidelity} |",
        f"| good for | {preset.good_for} |",
        f"| cost | {preset.cost} |",
        f"| linear layers | {preset.linear} |",
        f"| grouped and depthwise convolutions | {preset.grouped} |",
        f"| transformers | {preset.transformers} |",
        *[
            f"| {NETWORKS[kind]} | {found if found == 'refused' else ', '.join(found)} |"
            for kind, found in preset.layers.items()
        ],
        "",
        "The last rows: which layers of four tiny networks the short form acts on, or that it refuses such a network in a line",
        "(`tests/networks/kinds_of_layers.py`; `tests/studies/test_kinds_of_layers.py` runs it).",
        "",
        "## Published settings",
        "",
        f"{preset.published[0].upper()}{preset.published[1:]}.",
        "`budgets: null` is for a recipe's budgets, `$keep` and `$cut` for the share of the only one, "
        "`$root` and `$root_cut` for what it keeps and takes of the channels. What a recipe writes wins.",
        "",
        "```yaml",
        *phases.rstrip().splitlines(),
        "```",
        "",
        *(["Not here:", "", *(f"- {line}" for line in preset.lacks), ""] if preset.lacks else []),
        "## On digits",
        "",
    ]
    if found:
        lines += [
            f"`python benchmarks/presets/run.py {preset.name}`, `results/presets/`; top-1 after the last epoch.",
            "",
            *rows_of(found),
        ]
    else:
        lines += [f"`python benchmarks/presets/run.py {preset.name}` has not been run yet."]
    return "\n".join(lines) + "\n"


def index() -> str:
    """The page that leads to all of them."""
    lines = [
        "# Systems of the literature",
        "",
        "Each is a preset: the phases it is made of, with its published settings, in one file of `src/flowprune/methods/presets/`.",
        "`flowprune methods` lists them, `flowprune run --method NAME` runs one.",
        "`python benchmarks/pages.py presets` writes the pages.",
    ]
    lines += ["", *HOW.strip().splitlines()]
    for kind in KINDS:
        presets = [REGISTRY[name] for name in REGISTRY if REGISTRY[name].kind == kind]
        if presets:
            lines += ["", f"**{kind[0].upper()}{kind[1:]}.**", ""]
            lines += [f"- [`{one.name}`](methods/{one.name}.md): {one.title} ({one.fidelity})" for one in presets]
    return "\n".join(lines) + "\n"


def main() -> int:
    pages = {INDEX: index()} | {FOLDER / f"{name}.md": page_of(REGISTRY[name]) for name in REGISTRY}
    return all_written(pages, gone=set(FOLDER.glob("*.md")) - set(pages))
