"""The generated part of docs/zoo.md: totals, clocks, memory, export, the models beyond the list, and every model."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from zoo.records import is_idle

TARGETS = {
    "densenet121": ("at least 3x faster", 1 / 3),
    "vgg16_bn": ("at least 3x faster", 1 / 3),
    "resnet18": ("at most 1.5x the time", 1.5),
    "resnet50": ("at most 1.5x the time", 1.5),
    "mobilenet_v2": ("at most 1.5x the time", 1.5),
    "convnext_tiny": ("at most 1.5x the time", 1.5),
}
"""torchvision's name -> what is asked of flowprune's time beside Torch-Pruning's, in words and as the largest ratio."""

FEW = 0.6


@dataclass(frozen=True)
class Survey:
    """One tool's results on one list: line of the list -> its stages' records."""

    tool: str
    version: str
    environment: dict[str, Any]
    models: dict[str, dict[str, Any]]

    def stage(self, line: str, stage: str) -> dict[str, Any]:
        """A stage's record; empty where it was not measured."""
        record: dict[str, Any] = self.models.get(line, {}).get(stage, {})
        return record

    def works(self, line: str) -> bool:
        return bool(self.stage(line, "works").get("works"))

    def seconds(self, line: str) -> float | None:
        """Processor seconds from the dense to the pruned model; None where it does not work or has no clock."""
        return self.stage(line, "times").get("seconds") if self.works(line) else None

    def uncertified(self, line: str) -> float | None:
        """The same run less its share in the certificate."""
        seconds, times = self.seconds(line), self.stage(line, "times")
        return None if seconds is None else seconds * (1 - times["phases"]["certificate"] / times["seconds_wall"])

    def growth(self, line: str) -> float | None:
        """MiB of memory above the loaded dense model, at the peak."""
        times = self.stage(line, "times")
        return times["memory_peak"] - times["memory_before"] if self.works(line) and "memory_peak" in times else None


def page(ours: Survey, pruning: Survey, kirigami: Survey, beyond: Survey, others: str) -> str:
    """Everything between the marks; ``others`` is the section on other libraries' networks."""
    surveys = [survey for survey in (ours, pruning, kirigami) if survey.models]
    parts = [totals(surveys), clocks(ours, [s for s in surveys if s is not ours]), named(ours, pruning)]
    parts += [phases(ours), memory(ours, pruning), exports(ours), others, outside(beyond), every_model(surveys)]
    return "\n\n".join(part for part in parts if part)


def totals(surveys: list[Survey]) -> str:
    lines = [
        "| tool | works | keeps at most 60 % of the parameters | over the limit | fails |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for survey in surveys:
        works = [record["works"] for record in survey.models.values()]
        good = [record for record in works if record["works"]]
        late = sum(record.get("error", "").startswith("over ") for record in works)
        few = sum(record["params_kept"] <= FEW for record in good)
        lines.append(
            f"| {survey.tool} {survey.version.partition('+')[0]} | {len(good)} of {len(works)} | {few} | {late} "
            f"| {len(works) - len(good) - late} |"
        )
    machine = surveys[0].environment if surveys else {}
    versions = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "torchvision", "timm") if machine)
    where = f"\n\nOn {machine['cpu']}, one thread; Python {machine['python']}, {versions}." if machine else ""
    return "\n".join(lines) + where


def clocks(ours: Survey, rivals: list[Survey]) -> str:
    lines = [
        "## Time",
        "",
        "Processor seconds from the dense model to the pruned one, over the models that both tools manage. A ratio is the rival's "
        "time over flowprune's, model by model; above 1 flowprune is faster.",
        "",
        "| beside | models | flowprune, median s | rival, median s | ratio: median | lowest | highest "
        "| flowprune faster on | ratio without the certificate, median |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = 0
    for rival in rivals:
        both = [line for line in ours.models if ours.seconds(line) is not None and rival.seconds(line) is not None]
        if not both:
            continue
        mine, theirs = [ours.seconds(line) or 0 for line in both], [rival.seconds(line) or 0 for line in both]
        ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
        bare = [b / (ours.uncertified(line) or a) for line, a, b in zip(both, mine, theirs, strict=True)]
        lines.append(
            f"| {rival.tool} | {len(both)} | {statistics.median(mine):.2f} | {statistics.median(theirs):.2f} "
            f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} "
            f"| {sum(ratio > 1 for ratio in ratios)} | {statistics.median(bare):.2f} |"
        )
        rows += 1
    taken = [s.stage(line, "times") for s in (ours, *rivals) for line in s.models if s.seconds(line) is not None]
    busy = sum(not is_idle(record) for record in taken)
    if busy:
        lines += ["", f"{busy} of these {len(taken)} clocks were taken on a busy machine and compare little."]
    return "\n".join(lines) if rows else ""


def named(ours: Survey, pruning: Survey) -> str:
    lines = [
        "The named ones, each the median of three processes:",
        "",
        "| model | flowprune, s | of it the certificate | without it | Torch-Pruning, s | flowprune / Torch-Pruning "
        "| target | met |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    rows = 0
    for name, (target, largest) in TARGETS.items():
        line = f"torchvision:{name} 224"
        mine, bare, theirs = ours.seconds(line), ours.uncertified(line), pruning.seconds(line)
        if mine is None or bare is None or theirs is None:
            continue
        lines.append(
            f"| {name} | {mine:.2f} | {mine - bare:.2f} | {bare:.2f} | {theirs:.2f} | {mine / theirs:.2f} | {target} "
            f"| {'yes' if mine <= largest * theirs else 'no'} |"
        )
        rows += 1
    return "\n".join(lines) if rows else ""


def phases(ours: Survey) -> str:
    timed = [ours.stage(line, "times") for line in ours.models if ours.seconds(line) is not None]
    if not timed:
        return ""
    names = list(timed[0]["phases"])
    shares = {name: statistics.median(100 * t["phases"][name] / t["seconds_wall"] for t in timed) for name in names}
    return "\n".join(
        [
            f"Where flowprune's time goes, median share over {len(timed)} models:",
            "",
            "| " + " | ".join(names) + " |",
            "| " + " | ".join("---:" for _ in names) + " |",
            "| " + " | ".join(f"{shares[name]:.0f} %" for name in names) + " |",
        ]
    )


def memory(ours: Survey, pruning: Survey) -> str:
    mine = [growth for line in ours.models if (growth := ours.growth(line)) is not None]
    if not mine:
        return ""
    text = f"## Memory\n\nPeak above the loaded dense model: flowprune {statistics.median(mine):.0f} MiB at the median"
    text += f", at most {max(mine):.0f} MiB, over {len(mine)} models"
    both = [line for line in ours.models if ours.growth(line) is not None and pruning.growth(line) is not None]
    if both:
        left, right = (statistics.median(s.growth(line) or 0 for line in both) for s in (ours, pruning))
        text += f"; over the {len(both)} models that both manage {left:.0f} MiB, Torch-Pruning {right:.0f} MiB"
    return text + "."


def exports(ours: Survey) -> str:
    asked = {line: ours.stage(line, "export") for line in ours.models if ours.stage(line, "export")}
    dense = [line for line, record in asked.items() if record.get("dense")]
    if not asked:
        return ""
    lost = [line for line in dense if not asked[line].get("pruned")]
    kept = len(dense) - len(lost)
    text = f"## Export\n\n`torch.export` takes {len(dense)} of {len(asked)} dense models, and of these {kept} pruned."
    return text + "".join(f"\n- {name(line)}: {cell(asked[line].get('pruned_error', ''))}" for line in lost)


def outside(beyond: Survey) -> str:
    if not beyond.models:
        return ""
    works = {line: record["works"] for line, record in beyond.models.items()}
    good = [record for record in works.values() if record["works"]]
    few = sum(record["params_kept"] <= FEW for record in good)
    lines = [
        "## Models outside the list",
        "",
        f"Of {len(works)} models outside the list {len(good)} work, and {few} keep at most 60 % of their parameters.",
        "",
        "| model | parameters kept, or what is wrong | prunable |",
        "| --- | --- | ---: |",
    ]
    for line, record in works.items():
        kept = f"{record['params_kept']:.2f}" if record["works"] else cell(record.get("error", "no answer"))
        lines.append(f"| {name(line)} | {kept} | {number(record.get('prunable'))} |")
    return "\n".join(lines)


def every_model(surveys: list[Survey]) -> str:
    if not surveys:
        return ""
    ours = next((survey for survey in surveys if survey.tool == "flowprune"), None)
    tools = [survey.tool for survey in surveys]
    titles = ["model", *(f"kept: {tool}" for tool in tools), *(f"s: {tool}" for tool in tools)]
    titles += [f"MiB: {tool}" for tool in tools]
    if ours is not None:
        titles[len(tools) + 2 : len(tools) + 2] = ["without the certificate"]
        titles += ["prunable", "exports, dense / pruned", "most frequent reason to stay, beside being an output"]
    lines = [
        "## Every model",
        "",
        "*kept*: share of the parameters; a dash where the tool fails. *s*: processor seconds. *MiB*: peak above the loaded dense "
        "model.",
        "",
        "| " + " | ".join(titles) + " |",
        "| --- |" + " ---: |" * (len(titles) - 1),
    ]
    for line in dict.fromkeys(line for survey in surveys for line in survey.models):
        cells = [name(line)]
        cells += [number(s.stage(line, "works").get("params_kept") if s.works(line) else None) for s in surveys]
        for survey in surveys:
            cells.append(number(survey.seconds(line)))
            if survey is ours:
                cells.append(number(survey.uncertified(line)))
        cells += [number(survey.growth(line), digits=0) for survey in surveys]
        if ours is not None:
            cells += [number(ours.stage(line, "works").get("prunable")), exported(ours, line), why(ours, line)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def exported(ours: Survey, line: str) -> str:
    record = ours.stage(line, "export")
    answers = [{True: "yes", False: "no", None: "-"}[record.get(which)] for which in ("dense", "pruned")]
    return " / ".join(answers) if record else "-"


def why(ours: Survey, line: str) -> str:
    """The failure; else the most frequent reason why something stays."""
    works = ours.stage(line, "works")
    if works and not works["works"]:
        return cell(works.get("error", "no answer"))
    reasons = [reason for reason in works.get("reasons", {}) if reason != "it is an output of the model"]
    return cell(reasons[0]) if reasons else ""


def name(line: str) -> str:
    """A model's name without its image size."""
    return line.split()[0]


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")[:140]
