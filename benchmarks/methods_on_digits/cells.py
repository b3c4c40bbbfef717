"""What is run: a cell for every method, what it is asked to keep, and seed; the share is read from the results of chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flowprune.engine.measuring.single_weights import single_weights
from flowprune.methods.masks import REGISTRY as MASKS
from flowprune.methods.presets import REGISTRY as PRESETS
from flowprune.models import create
from flowprune.studies.preset_phases import short_form
from flowprune.studies.recipe import Recipe
from flowprune.studies.recipe_file import override, read_content

UNPRUNED, CHANCE, L1 = "unpruned", "chance", "l1"
CONTROLS = (CHANCE, L1)
KERNELS = "chance-of-kernels"
"""The same by whole kernels, beside a pattern that keeps whole ones."""
AS_CONTROLS = ("random", "l1")
"""Presets that the controls are."""
PATTERN, OWN = "pattern", "own"
KINDS = ("macs", "weights", "bytes")
"""Budgets that have a share, which chance chooses: of cuts, masks, and of what is stored."""


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        method: a preset, "unpruned", or, as controls, "chance" and "l1".
        kind: what is kept: "macs", "weights" or "bytes"; "pattern" of a fixed pattern, or of a control "pattern-NAME" with the
            density of that one; "own" where a preset has a target of its own; "all" where nothing leaves.
        share: of the budget; None where the kind has none.
        seed: of weights, images' order, what criteria see, and chance.
    """

    method: str
    kind: str
    share: float | None
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        kept = self.kind if self.share is None else f"{self.kind}={self.share:g}"
        return f"{self.method}-{kept}-seed{self.seed}"


Study = Mapping[str, Any]
Finished = Mapping[str, Mapping[str, Any]]
"""Name of a cell -> what its file says."""


def the_study() -> Study:
    """What ``study.yaml`` says."""
    return read_content(Path(__file__).with_name("study.yaml"))


def kind_of(method: str) -> str:
    """What a preset is asked to keep."""
    preset = PRESETS[method]
    if preset.kind == "fixed pattern":
        return PATTERN
    return preset.takes[0] if "keep" in preset.short else OWN


def chosen_share(study: Study, finished: Finished, kind: str) -> float | None:
    """The largest share at which chance loses enough with the first seed, else the smallest; None while that is not known."""
    seed = study["seeds"][0]
    whole = finished.get(Cell(UNPRUNED, "all", None, seed).name)
    for share in study["shares"]:
        found = finished.get(Cell(CHANCE, kind, share, seed).name)
        if whole is None or found is None:
            return None
        if "refused" in found or whole["top1"] - found["top1"] >= study["lost"]:
            return float(share)
    return float(study["shares"][-1])


def cells_of(study: Study, finished: Finished) -> Iterator[Cell]:
    """All cells as far as they are known: those that choose the shares, then seed by seed each kind with its controls first."""
    first = study["seeds"][0]
    yield Cell(UNPRUNED, "all", None, first)
    for kind in KINDS:
        for share in study["shares"]:
            yield (tried := Cell(CHANCE, kind, share, first))
            if tried.name not in finished or chosen_share(study, finished, kind) == share:
                break
    shares = {kind: chosen_share(study, finished, kind) for kind in KINDS}
    for seed in study["seeds"]:
        yield Cell(UNPRUNED, "all", None, seed)
        for kind in KINDS:
            members = [name for name in PRESETS if kind_of(name) == kind and name not in AS_CONTROLS]
            asked = {name: study["asked_at"].get(name, shares[kind]) for name in members}
            for share in sorted({one for one in (shares[kind], *asked.values()) if one is not None}, reverse=True):
                yield from (Cell(control, kind, share, seed) for control in CONTROLS)
                yield from (Cell(name, kind, share, seed) for name in members if asked[name] == share)
        for name in PRESETS:
            if kind_of(name) == PATTERN:
                controls = (*CONTROLS, *[KERNELS] * (name in study["whole_kernels"]))
                yield from (Cell(control, f"{PATTERN}-{name}", None, seed) for control in controls)
                yield Cell(name, PATTERN, None, seed)
            elif kind_of(name) == OWN:
                yield Cell(name, OWN, None, seed)


def recipe_of(study: Study, cell: Cell) -> Recipe:
    """What a cell does, as the recipe of a run."""
    if cell.method in (UNPRUNED, *CONTROLS, KERNELS):
        content = {**read_content(None, embedded="short.yaml"), "methods": [cell.method]}
        content["phases"] = _control(study, cell)
    else:
        content = short_form(PRESETS[cell.method], cell.share)
        changes = study["changes"].get(cell.method, {})
        override(content, [f"{place}={yaml.safe_dump(value)}" for place, value in changes.items()])
    for phase in content["phases"]:
        if "budgets" in phase:
            phase["budgets"] = [budget for budget in phase["budgets"] if budget is not None]
    content |= {"name": cell.name, "network": study["network"], "data": study["data"]}
    content["training"] = {**content["training"], "seed": cell.seed}
    content["finetuning"] = {**content["finetuning"], "seed": cell.seed, "epochs": study["recovery"]}
    return Recipe.model_validate(content)


def _control(study: Study, cell: Cell) -> list[dict[str, Any]]:
    """The phases of a control: as many epochs before and after as the methods have."""
    train, recover = {"phase": "train", "training": {"epochs": study["epochs"]}}, {"phase": "recover"}
    if cell.kind == "all":
        return [train, recover]
    seeded = {"seed": cell.seed}
    options = {**seeded, "kernels": True} if cell.method == KERNELS else seeded
    chance = {"score": "random", "score_options": options} if cell.method != L1 else {}
    if cell.kind in ("macs", "bytes"):  # float32 numbers take that share of the bytes
        kept = {"macs" if cell.kind == "macs" else "params": cell.share}
        criterion = {"name": "random", "options": seeded} if cell.method == CHANCE else {"name": "l1"}
        return [train, {"phase": "cut", "budgets": [kept], "importance": criterion}, recover]
    if cell.kind == "weights":
        return [train, {"phase": "mask", "mask": "weight", "budgets": [{"weights": cell.share}], **chance}, recover]
    densities = _densities(study, cell.kind.removeprefix(f"{PATTERN}-"))
    mask = {"phase": "mask", "mask": "weight", "budgets": [{"weights": densities}], **chance}
    if cell.method == L1:
        return [train, mask, recover]
    return [mask, {"phase": "train", "training": {"epochs": study["epochs"] + study["recovery"]}}]


def _densities(study: Study, pattern: str) -> dict[str, float]:
    """What a fixed pattern keeps of each tensor, where that is not all."""
    options = study["changes"][pattern]["phases.0.options"]
    network = create(study["network"]["name"], classes=10, **study["network"]["options"])
    masks = MASKS.built(pattern, options).select(single_weights(network))
    return {name: float(mask.double().mean()) for name, mask in masks.items() if not mask.all()}
