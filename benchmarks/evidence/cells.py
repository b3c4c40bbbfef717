"""Studies made of cells: a training, a cut or a recovery each, one behind the other, every one resumable and a file of results.

A cell is one phase of a recipe, carried out on the model that the cell before it left. Cells that begin alike share these
beginnings: a training is done once for all cuts behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from evidence.images import Images
from evidence.kept import kept
from evidence.passes import counted

from flowprune import measure
from flowprune.artifacts.atomic_write import write_text
from flowprune.reporting import environment
from flowprune.studies.comparison.cells import located
from flowprune.studies.pipeline.course import Stop, course_of
from flowprune.studies.pipeline.job import Job
from flowprune.studies.pipeline.run_folder import RunFolder
from flowprune.studies.pipeline.stages import Stages
from flowprune.studies.recipe import Recipe
from flowprune.training.checkpoint import METRICS

METHOD = "cells"

Result = Mapping[str, Any]
Known = Mapping[str, Result]
"""Name of a cell -> its result, of those that are finished."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One phase.

    Attributes:
        name: of its file of results.
        phase: as in a recipe; at most one budget.
        after: whose model it begins with; None for the study's network itself.
        seed: of starting weights, of the order of the images, of the images that criteria see.
        passes: image passes that its training is expected to take, a forward and backward each; 0 where nothing is trained.
        about: what its page wants to know of it.
    """

    name: str
    phase: Mapping[str, Any]
    after: Cell | None = None
    seed: int = 0
    passes: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chain(self) -> tuple[Cell, ...]:
        """The cells from the network to this one."""
        return (*(self.after.chain if self.after is not None else ()), self)


@dataclass(frozen=True)
class Setting:
    """What all cells of a study have in common.

    Attributes:
        study: its folder under benchmarks/.
        network, data: as in a recipe.
        training: what every training is where its phase says nothing else; as in a recipe.
        choosing: so many images choose; see ``Images``.
        chosen_from: "test" or "training" images.
    """

    study: str
    network: Mapping[str, Any]
    data: Mapping[str, Any]
    training: Mapping[str, Any]
    choosing: int = 2000
    chosen_from: str = "test"

    def recipe(self, seed: int, phases: list[Mapping[str, Any]] | None = None) -> Recipe:
        """Of a run of these phases; of one that does nothing without any."""
        content: dict[str, Any] = {"name": self.study, "network": dict(self.network), "data": dict(self.data)}
        content["training"] = {**self.training, "seed": seed}
        if phases is None:
            return Recipe.model_validate({**content, "methods": ["plain"]})
        return Recipe.model_validate(
            {**content, "methods": [METHOD], "phases": {METHOD: [dict(one) for one in phases]}}
        )

    @property
    def results(self) -> Path:
        """Where the results of the whole study are committed, from the repository's root."""
        return Path("results") / self.study.replace("_", "-")


class Workshop:
    """Carries out the cells of one study.

    Args:
        setting: of the study.
        out: receives the results.
        work: holds models and checkpoints, which are not committed.
        data_dir: where data sets lie.
        progress: show bars.
    """

    def __init__(self, setting: Setting, out: Path, work: Path, data_dir: Path | None, progress: bool = False) -> None:
        self.setting, self.out, self.data_dir, self.progress = setting, out, data_dir, progress
        self.folder = RunFolder(work)
        self._images: Images | None = None

    def known(self) -> dict[str, Result]:
        """The finished cells' results.

        Raises:
            SystemExit: one of them is of another setting.
        """
        found = {}
        for path in sorted(self.out.glob("*.json")):
            result = json.loads(path.read_text(encoding="utf-8"))
            if result["setting"] != asdict(self.setting):
                raise SystemExit(f"{path} is of another setting of this study; choose another folder with --out")
            found[path.stem] = result
        return found

    def has_model(self, cell: Cell) -> bool:
        """Whether the model that it left is there, for the cells behind it."""
        return self.folder.finished(cell.name) is not None

    def epochs(self, cell: Cell) -> int:
        """How many epochs of a training that is not finished have been made."""
        file = self.folder.stage(cell.name) / METRICS
        return len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0

    def done(self, cell: Cell, say: Callable[[str], None]) -> Result:
        """Carry out a cell, and before it those that it begins with where their models are not there; write its result."""
        setting, seed = self.setting, cell.seed
        if self._images is None:
            self._images = Images.of(setting.data, self.data_dir, setting.choosing, setting.chosen_from)
        # The seed of the first cell says nothing here: what every cell of the folder has in common is the setting.
        self.folder.claim(setting.recipe(0), None, resume=True, overwrite=False)
        recipe = setting.recipe(seed, [one.phase for one in cell.chain])
        stops = list(course_of(recipe.phases_of(METHOD)))
        names = {_key(stop): one.name for stop, one in zip(stops, cell.chain, strict=True)}
        network = located(recipe.networks[0], self.data_dir)
        begun = self.epochs(cell)
        with counted(self._images.data) as (data, passes):
            job = Job(recipe, data, Accelerator(mixed_precision="no").device)
            stages = Stages(
                job, self.folder, network, METHOD, lambda *key: names[key], self.progress, lambda line: None
            )
            for stop, one in zip(stops, cell.chain, strict=True):
                if not self.has_model(one):
                    say(f"{one.name}: begins")
                before = passes.cost
                record = stages.done(stop)
            cost = passes.cost - before
        model = stages.model_after(stops[-1])
        epochs = len(record.get("history", []))
        # What was trained before an interruption was not counted here; every epoch costs the same.
        if epochs:
            cost = cost * epochs / (epochs - begun) if begun < epochs else cell.passes
        of_network = measure(model, job.example())
        result = {
            "command": f"python benchmarks/{setting.study}/run.py --only {cell.name}",
            "cell": cell.name,
            "after": None if cell.after is None else cell.after.name,
            "seed": seed,
            "about": dict(cell.about),
            "setting": asdict(setting),
            "phase": dict(cell.phase),
            "passes": round(cost),
            "top1": {"choosing": self._images.top1_choosing(model), "reporting": record["row"]["top1"]},
            **{key: value for key, value in kept(record).items() if key not in ("top1", "best_top1", "budget")},
            **{name: getattr(of_network, name) for name in ("effective_macs", "nonzero", "bytes", "stored_bytes")},
            "environment": environment(),
        }
        result = json.loads(json.dumps(result, allow_nan=False))
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.out / f"{cell.name}.json", json.dumps(result, indent=1) + "\n")
        top1 = result["top1"]
        chosen = f"{top1['choosing']:.2f} % on the images that choose"
        say(f"{cell.name}: {top1['reporting']:.2f} % ({chosen}), {result['seconds']:.0f} s")
        return result


def _key(stop: Stop) -> tuple[str, str | None]:
    return stop.stage, stop.budgets
