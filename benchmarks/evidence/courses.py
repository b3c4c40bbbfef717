"""A training, the cuts that are made of its network to each budget, and the recovery behind the one that is best before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evidence.cells import Cell, Known

CRITERIA = {"energy": "nuclear_norm", "l2": "l2", "taylor": "taylor", "fpgm": "fpgm"}
"""What a cut is called here -> the importance. ``removal-T-energy`` first removes what is dead below T, ends of branches too."""


@dataclass(frozen=True, eq=False)
class Tried:
    """What a training tries: one setting of plain training, or a form of the flow at one strength.

    Attributes:
        form: "plain", or what the form is called.
        setting: which of its settings, in words.
        training: what its training has of its own, as in a recipe.
        flow: options of the flow; None without one.
    """

    form: str
    setting: str
    training: Mapping[str, Any]
    flow: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Of its cells."""
        return f"{self.form}-{self.setting}".replace(" ", "-").replace("%", "")

    def trained(self, seed: int, epochs: int, images: int, label: str = "") -> Cell:
        """The cell of its training."""
        acting = [] if self.flow is None else [{"name": "ffr", "options": dict(self.flow)}]
        return Cell(
            f"{self.name}{label}-seed{seed}",
            {"phase": "train", "training": {**self.training, "epochs": epochs}, "regularizers": acting},
            seed=seed,
            passes=float(epochs * images),
            about={"form": self.form, "setting": self.setting, "stage": "trained"},
        )


@dataclass(frozen=True)
class Course:
    """Everything that is made of one training.

    Attributes:
        trained: its cell.
        ways: share of the MACs kept -> the ways to cut that are tried.
        always: those that are recovered beside the one that is best on the images that choose.
        recovery: the recovery's training, as in a recipe.
        images: that train, in an epoch.
    """

    trained: Cell
    ways: Mapping[float, Sequence[str]]
    always: Sequence[str]
    recovery: Mapping[str, Any]
    images: int

    def cells(self, known: Known) -> list[Cell]:
        """Those that the results so far determine."""
        found = [self.trained]
        for kept, ways in self.ways.items():
            for way in ways:
                found += self._cut_with_what_it_needs(way, kept, known)
        for kept in self.ways:
            found += [self.recovered(way, kept, known) for way in self.recovered_ways(kept, known)]
        return list({cell.name: cell for cell in found}.values())

    def later(self, known: Known) -> Iterator[str]:
        """What is not determined yet."""
        for kept in self.ways:
            if self.best(kept, known) is None:
                yield f"{self.trained.name}: the recovery at {kept:.0%} of the MACs waits for its cuts"

    def cut(self, way: str, kept: float, known: Known) -> Cell | None:
        """A cut; None where it is asked for what is not known yet."""
        name, about = self._name(way, kept), {**self.trained.about, "stage": "cut", "way": way, "kept": kept}
        phase = {"phase": "cut", "importance": {"name": CRITERIA[way.rpartition("-")[2]]}}
        after, seed = self.trained, self.trained.seed
        if not way.startswith("removal"):
            return Cell(name, {**phase, "budgets": [{"macs": kept}]}, after, seed, about=about)
        removal = self._removal(way)
        if removal.name not in known or after.name not in known:
            return None
        # Of the dense network's: what the removal took counts.
        macs = str(int(kept * known[after.name]["macs"]))
        return Cell(name, {**phase, "budgets": [{"macs": macs}]}, removal, seed, about=about)

    def recovered(self, way: str, kept: float, known: Known) -> Cell:
        """The recovery behind a cut."""
        cut = self.cut(way, kept, known)
        assert cut is not None
        return Cell(
            f"{cut.name}-recovered",
            {"phase": "recover", "training": dict(self.recovery)},
            cut,
            cut.seed,
            passes=float(self.recovery["epochs"] * self.images),
            about={**cut.about, "stage": "recovered"},
        )

    def best(self, kept: float, known: Known) -> str | None:
        """The way whose cut is best on the images that choose; None as long as one of them is missing."""
        names = {way: self._name(way, kept) for way in self.ways[kept]}
        if any(name not in known for name in names.values()):
            return None
        return max(names, key=lambda way: float(known[names[way]]["top1"]["choosing"]))

    def recovered_ways(self, kept: float, known: Known) -> list[str]:
        """The ways whose cuts are recovered, as far as that is known."""
        best = self.best(kept, known)
        return [] if best is None else [way for way in self.ways[kept] if way == best or way in self.always]

    def top1(self, way: str, kept: float, known: Known, images: str) -> float | None:
        """Top-1 after the recovery; None where it is not run yet."""
        result = known.get(f"{self._name(way, kept)}-recovered")
        return None if result is None else float(result["top1"][images])

    def end(self, kept: float, known: Known, images: str) -> float | None:
        """Top-1 after the recovery behind the best cut."""
        best = self.best(kept, known)
        return None if best is None else self.top1(best, kept, known, images)

    def is_run(self, known: Known) -> bool:
        """Whether nothing of it is open."""
        ends = [self.end(kept, known, "choosing") for kept in self.ways]
        return None not in ends and all(cell.name in known for cell in self.cells(known))

    def _cut_with_what_it_needs(self, way: str, kept: float, known: Known) -> Iterator[Cell]:
        if way.startswith("removal"):
            yield self._removal(way)
        cut = self.cut(way, kept, known)
        if cut is not None:
            yield cut

    def _removal(self, way: str) -> Cell:
        threshold = float(way.split("-")[1])
        phase = {"phase": "cut", "budgets": [{"threshold": threshold}], "branches": "always"}
        about = {**self.trained.about, "stage": "removed", "threshold": threshold}
        return Cell(f"{self.trained.name}-removal-{threshold:g}", phase, self.trained, self.trained.seed, about=about)

    def _name(self, way: str, kept: float) -> str:
        return f"{self.trained.name}-{100 * kept:.0f}-{way}"
