"""Write the tables of docs/choose.md from the presets: what each needs, what it gives, what it costs.

python benchmarks/pages.py choose [--check]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from written_pages import header, written

from flowprune.methods.importance import REGISTRY as IMPORTANCES
from flowprune.methods.presets import KINDS, REGISTRY, Preset

PAGE = Path(__file__).resolve().parents[2] / "docs/choose.md"
BEGIN, END = "<!-- choose:begin -->", "<!-- choose:end -->"

GIVES = {
    "structured": "fewer channels, an ordinary smaller network",
    "mask": "zeros among the weights, chosen by a budget",
    "fixed pattern": "zeros in a pattern that is there before the training",
    "quantizer": "weights of few bits",
    "codec": "a smaller file",
    "recovery": "accuracy back after a cut",
}
COLUMNS = ("system", "begins with", "acts", "chooses by", "epochs after", "what it costs", "fidelity")


def begins_with(preset: Preset) -> str:
    """Whether a network that is trained already will do."""
    first = preset.phases[0]
    return "a trained network" if first["phase"] == "train" and not acting(first) else "a new network"


def acting(phase: dict[str, Any]) -> list[str]:
    """What acts during a phase's training, by name."""
    return [one if isinstance(one, str) else one["name"] for one in phase.get("regularizers", [])]


def acts(preset: Preset) -> str:
    """Where in the course the method itself is at work."""
    if any(acting(phase) for phase in preset.phases):
        return "in the training"
    return "before the training" if preset.phases[0]["phase"] != "train" else "after the training"


def chooses_by(preset: Preset) -> str:
    """What the choice of what leaves looks at."""
    for phase in preset.phases:
        if phase["phase"] in ("mask", "replace") and phase is preset.phases[0]:
            return "nothing: a pattern" if preset.kind == "fixed pattern" else "the weights"
        named = phase.get("importance", {}).get("name")
        decided = (
            phase.get("mask") == "outcome" or named == "outcome" or phase.get("options", {}).get("bits") == "outcome"
        )
        if decided or (phase["phase"] == "cut" and phase.get("budgets") == []):
            return "what the training decided"
        if named == "random":
            return "chance"
        if named is not None:
            return seen_by(IMPORTANCES[named])
        if phase["phase"] == "cut":
            return "the criterion of the recipe, or a threshold"
        if phase["phase"] == "mask":
            return "images" if phase.get("allocator") == "rate_distortion" else "the weights"
    return "the weights"


def seen_by(criterion: object) -> str:
    """What a criterion looks at."""
    if getattr(criterion, "needs_labels", False):
        return "images with labels"
    return "images" if getattr(criterion, "needs_data", False) else "the weights"


def epochs_after(preset: Preset) -> int:
    """Published epochs of everything behind the first training: what somebody with a trained network pays."""
    behind = (
        preset.phases[1:] if preset.phases[0]["phase"] == "train" and not acting(preset.phases[0]) else preset.phases
    )
    return sum((phase.get("training") or {}).get("epochs", 0) for phase in behind)


def table_of(kind: str) -> list[str]:
    """All systems of a kind."""
    presets = [REGISTRY[name] for name in REGISTRY if REGISTRY[name].kind == kind]
    asked = ", ".join(f"`{one}`" for one in KINDS[kind])  # type: ignore[index]
    lines = [f"## {kind[0].upper()}{kind[1:]}: {GIVES[kind]}", ""]
    lines += [f"Asked for in {asked}." if asked else "Nothing is asked for: it keeps what it keeps.", ""]
    lines += header(COLUMNS, len(COLUMNS))
    for one in presets:
        cells = (
            begins_with(one),
            acts(one),
            chooses_by(one),
            str(epochs_after(one)),
            one.cost.rstrip("."),
            one.fidelity,
        )
        lines.append(f"| [`{one.name}`](methods/{one.name}.md) | {' | '.join(cells)} |")
    lines += ["", *(f"- `{one.name}` is good for {one.good_for}" for one in presets), ""]
    return lines


def main() -> int:
    return written(PAGE, BEGIN, END, "\n".join(line for kind in KINDS for line in table_of(kind)))
