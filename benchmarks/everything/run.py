"""The table of everything: every preset on one trained network, to one budget of its kind, at one cost.

    python benchmarks/everything/run.py [--data-dir DIR]     # goes on where it stopped
    python benchmarks/everything/run.py --list               # what is open, in order, and how long it is expected to take

ResNet-20 with its pretrained weights, all images of CIFAR-10. Structured presets keep 60 % of the MACs, masks 20 % of the
weights, fixed patterns what they keep, quantizers and codecs an eighth of the bytes. Everybody may spend 6 epochs' worth of image
passes (a forward and a backward 1, a forward alone a third), shared out among its trainings as its published lengths are; what
was spent is counted. Recovery is plain SGD for all; least squares and distillation have rows of their own, and what only recovers
stands apart. Every phase is a cell, one JSON in results/everything/. A preset that is new joins by the same command. One seed;
then the three of each kind that are best on test images 0 to 1,999 with two more. ``pages.py everything`` writes
docs/everything.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from everything.adapted import PASSES_AN_IMAGE, adapted, settled  # noqa: E402
from evidence.cells import Cell, Known, Setting  # noqa: E402
from evidence.command_line import study  # noqa: E402

from flowprune.methods.presets import REGISTRY  # noqa: E402
from flowprune.methods.presets.preset import KINDS as PRESET_KINDS  # noqa: E402

IMAGES = 50_000
FURTHER_SEEDS = (1, 2)
BEST = 3
SETTING = Setting(
    study="everything",
    network={"name": "resnet20", "weights": "weights/resnet20-12fca82f.th"},
    data={"name": "cifar10", "normalize": "imagenet"},
    training={"batch_size": 128, "precision": "float32", "evaluate_every": 1000},
)
CUT = {"phase": "cut", "budgets": [{"macs": 0.6}], "importance": {"name": "l1"}}
MASKED = {"phase": "mask", "mask": "weight", "budgets": [{"weights": 0.2}]}
OTHERS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "unpruned": ("control", [{"phase": "recover"}]),
    "weights by chance": ("mask", [{**MASKED, "score": "random"}, {"phase": "recover"}]),
    "weights by magnitude": ("mask", [{**MASKED, "score": "magnitude"}, {"phase": "recover"}]),
    "l1, least squares": ("recovery", [CUT, {"phase": "recover", "recoveries": ["least_squares"]}]),
    "l1, distillation": ("recovery", [CUT, {"phase": "recover", "recoveries": ["distillation"]}]),
}
"""Beside the presets, among which are chance (random), L1 and energy (eap): name -> kind and phases."""
FIRST_KINDS = ("control", "structured", "mask", "fixed pattern", "quantizer", "codec")
KINDS = tuple(dict.fromkeys((*FIRST_KINDS, *PRESET_KINDS)))
"""In the order of the tables; recoveries stand apart, last."""


@dataclass(frozen=True)
class Row:
    """A preset or a control.

    Attributes:
        name: of the row.
        kind: of the table that it stands in.
        phases: as it is carried out here.
    """

    name: str
    kind: str
    phases: tuple[Mapping[str, Any], ...]

    def cells(self, seed: int) -> list[Cell]:
        """A cell a phase; the last one is the row's end."""
        found: list[Cell] = []
        for number, phase in enumerate(self.phases, 1):
            epochs = float((phase.get("training") or {}).get("epochs", 0))
            name = f"{self.name.replace(', ', '-').replace(' ', '-')}-seed{seed}-{number}-{phase['phase']}"
            passes = epochs * IMAGES * phase.get("share", 1.0)
            if "share" in phase:
                passes *= PASSES_AN_IMAGE.get(self.name.rpartition(", ")[2], 1.0)
            about = {"row": self.name, "kind": self.kind, "last": number == len(self.phases)}
            found.append(Cell(name, phase, found[-1] if found else None, seed, passes, about))
        return found

    def end(self, known: Known, seed: int) -> Mapping[str, Any] | None:
        """The result of its last cell; None where it is not run."""
        return known.get(self.cells(seed)[-1].name)


@cache
def rows() -> tuple[Row, ...]:
    """Controls first, then kind by kind."""
    found = []
    for name, (kind, phases) in OTHERS.items():
        method = name.rpartition(", ")[2]
        found.append(Row(name, kind, tuple(settled(phases, an_image=PASSES_AN_IMAGE.get(method, 1.0)))))
    for name in REGISTRY:
        if name != "plain":  # which is the unpruned one
            found.append(Row(name, REGISTRY[name].kind, tuple(adapted(name))))
    first = ("unpruned", "random", "l1", "eap")
    return tuple(sorted(found, key=lambda row: (row.name not in first, KINDS.index(row.kind))))


def best(kind: str, known: Known) -> list[Row]:
    """The rows of a kind that seed 0 is best with on the images that choose; none as long as one of them is open."""
    own = [row for row in rows() if row.kind == kind]
    ends = {row.name: row.end(known, 0) for row in own}
    if None in ends.values() or kind == "control":
        return []
    return sorted(own, key=lambda row: -float((ends[row.name] or {})["top1"]["choosing"]))[:BEST]


def cells(known: Known) -> list[Cell]:
    """Seed 0 of every row, then the further seeds of the best."""
    found = [cell for row in rows() for cell in row.cells(0)]
    for kind in KINDS:
        for seed in FURTHER_SEEDS:
            found += [cell for row in best(kind, known) for cell in row.cells(seed)]
    return found


def later(known: Known) -> list[str]:
    """Kinds whose best are not known yet."""
    kinds = [kind for kind in KINDS if kind != "control" and any(row.kind == kind for row in rows())]
    return [f"two more seeds of the best of kind {kind}: wait for seed 0" for kind in kinds if not best(kind, known)]


def main(arguments: Sequence[str] | None = None) -> int:
    return study(__doc__, SETTING, cells, later, arguments)


if __name__ == "__main__":
    sys.exit(main())
