"""Which unit of strength leaves the same share of the filters dead over short trainings and longer ones?

    python benchmarks/transfer/run.py [--data-dir DIR]     # goes on where it stopped
    python benchmarks/transfer/run.py --list               # what is open, in order, and how long it is expected to take

ResNet-20 is trained from scratch on 10,000 images of CIFAR-10 for 5, 10 and 30 epochs, without a penalty and with the gradient
term of the flow (its form of today) in each unit: a percentage of the first batches' loss, a pull, a pressure, two strengths
each. A cell is one training: one JSON in results/transfer/; checkpoints and models stand in runs/transfer/. Test images 0 to
1,999 choose, which here nothing does; the others report. Further seeds come last. ``pages.py transfer`` writes the tables of
docs/transfer.md, with the unit to adopt, or that there is none.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from evidence.cells import Cell, Known, Setting  # noqa: E402
from evidence.command_line import study  # noqa: E402

EPOCHS = (5, 10, 30)
SEEDS = (0, 1, 2)
STRENGTHS = {"percentage": ("20%", "50%"), "pull": ("3.5 pull", "9 pull"), "pressure": ("8 pressure", "20 pressure")}
"""Unit -> two strengths of it, whose coefficients are nearly the same over ten epochs."""
IMAGES = 10_000
SETTING = Setting(
    study="transfer",
    network={"name": "resnet20"},
    data={"name": "cifar10", "subset": IMAGES},
    training={"lr": 0.1, "batch_size": 128, "weight_decay": 5e-4, "precision": "float32", "evaluate_every": 1000},
)


@dataclass(frozen=True)
class Row:
    """A strength in a unit; both are empty for plain training."""

    unit: str = ""
    strength: str = ""

    def cell(self, epochs: int, seed: int) -> Cell:
        """One training with it."""
        named = f"{self.unit}-{self.strength.split()[0].removesuffix('%')}" if self.unit else "plain"
        acting = [{"name": "ffr", "options": {"gradient": self.strength, "curvature": None}}] if self.unit else []
        return Cell(
            f"{named}-{epochs:02d}epochs-seed{seed}",
            {"phase": "train", "training": {"epochs": epochs}, "regularizers": acting},
            seed=seed,
            passes=float(epochs * IMAGES),
            about={"unit": self.unit or "none", "strength": self.strength, "epochs": epochs},
        )


ROWS = (Row(), *(Row(unit, strength) for unit, strengths in STRENGTHS.items() for strength in strengths))


def cells(known: Known) -> list[Cell]:
    """Every training, the short ones of the first seed first."""
    return [row.cell(epochs, seed) for seed in SEEDS for epochs in EPOCHS for row in ROWS]


def later(known: Known) -> list[str]:
    """Nothing waits for anything here; what no cell stands for."""
    return ["VGG-16 at half width, ResNet-18 and ResNet-56: not begun"]


def main(arguments: Sequence[str] | None = None) -> int:
    return study(__doc__, SETTING, cells, later, arguments)


if __name__ == "__main__":
    sys.exit(main())
