"""The section of docs/zoo.md on networks of other libraries."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from zoo.tables import FEW, Survey, cell

LIBRARIES = {
    "zoo.from_ultralytics": "Ultralytics",
    "zoo.from_transformers": "transformers (Hugging Face)",
    "zoo.from_segmentation_models": "segmentation_models_pytorch",
    "zoo.from_diffusers": "diffusers",
}


def section(ours: Survey, pruning: Survey, twins: Mapping[str, Mapping[str, Any]]) -> str:
    """What works of each library, and every network; ``twins`` are the comparisons with silenced twins by line."""
    if not ours.models:
        return ""
    lines = [
        "## Networks of other libraries",
        "",
        "With nothing said about any of them. *Twin*: the small network's outputs against those of its silenced twin in float64, "
        "with half of the channels drawn at random: the largest difference, as a share of the outputs' scale.",
        "",
        "| library | networks | flowprune works | keeps at most 60 % | kept, median | equal to its twin | Torch-Pruning works |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for module, library in LIBRARIES.items():
        names = [line for line in ours.models if line.startswith(f"{module}:")]
        works = [line for line in names if ours.works(line)]
        kept = [ours.stage(line, "works")["params_kept"] for line in works]
        pruned = [twins[line]["verdict"] for line in names if line in twins]
        compared = [verdict == "equal" for verdict in pruned if verdict != "nothing removed"]
        tried = [line for line in names if pruning.stage(line, "works")]
        median = f"{statistics.median(kept):.2f}" if kept else "-"
        lines.append(
            f"| {library} | {len(names)} | {len(works)} | {sum(share <= FEW for share in kept)} | {median} "
            f"| {share_of(sum(compared), len(compared))} | {share_of(sum(pruning.works(line) for line in tried), len(tried))} |"
        )
    lines += [
        "",
        "| network | kept: flowprune | twin | kept: Torch-Pruning | most frequent reason to stay, beside being an output |",
    ]
    lines += ["| --- | ---: | ---: | --- | --- |"]
    for line in ours.models:
        module, _, name = line.split()[0].partition(":")
        reasons = [
            reason for reason in ours.stage(line, "works").get("reasons", {}) if "output of the model" not in reason
        ]
        lines.append(
            f"| {LIBRARIES[module].split()[0]} {name} | {kept_or_why(ours, line)} | {difference(twins.get(line))} "
            f"| {kept_or_why(pruning, line)} | {cell(reasons[0]) if reasons else ''} |"
        )
    return "\n".join(lines)


def kept_or_why(survey: Survey, line: str) -> str:
    """The share of the parameters that is kept, or what is wrong."""
    record = survey.stage(line, "works")
    if not record:
        return "-"
    return f"{record['params_kept']:.2f}" if record["works"] else cell(record.get("error", "no answer"))


def difference(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "-"
    return (
        f"{record['difference']:.0e}" if record["verdict"] == "equal" else cell(record.get("error", record["verdict"]))
    )


def share_of(some: int, total: int) -> str:
    """How many of those that were measured; a dash where none was."""
    return f"{some} of {total}" if total else "-"
