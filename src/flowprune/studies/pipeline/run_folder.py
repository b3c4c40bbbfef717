"""The folder of a run: what stands where, which stages are finished, and what must not be overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from flowprune.artifacts.atomic_write import write_text
from flowprune.errors import ArtifactError, OutputError
from flowprune.studies.recipe import dump_recipe
from flowprune.training.checkpoint import CHECKPOINT
from flowprune.training.precision import PRECISION, MeasuredPrecision, write_precision

RECIPE, RESULTS, REPORT, MODEL = "recipe.yaml", "results.json", "report.html", "model.fp"
COMPARISON = "comparison.json"
_MODELS, _STAGES, _RECORD, _RESULTS_OF_CELLS = "models", "stages", "stage.json", "results"


class RunFolder:
    """A folder with everything a run needs to be repeated or gone on with.

    ::

        recipe.yaml                    as run, written first
        precision.json                 the measurement, if the recipe left the precision to it
        stages/NETWORK-METHOD.../      metrics.jsonl, checkpoint.pt while it trains, stage.json once it is finished
        models/NETWORK-METHOD....fp    the model each stage left
        results.json, report.html, model.fp   once everything is finished
        results/, comparison.json      a comparison's: the results.json of each of its runs, and the table of them

    Only the process that ``writes`` changes it: under ``accelerate launch`` that is the first one.
    """

    def __init__(self, path: str | Path, *, writes: bool = True) -> None:
        self.path = Path(path)
        self.writes = writes

    def check(self, recipe: BaseModel, *, resume: bool, overwrite: bool) -> None:
        """Raise an ``OutputError`` if this folder cannot be used so; nothing is changed."""
        if resume and overwrite:
            raise OutputError("--resume keeps what is there, --overwrite removes it; use one of them")
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; name another folder with --out")
        if not self._holds_something():
            return
        if not resume and not overwrite:
            raise OutputError(f"{self.path} is not empty; --resume goes on with the run in it, --overwrite removes it")
        if not (self.path / RECIPE).is_file():
            raise OutputError(
                f"{self.path} holds other files than a run's (there is no {RECIPE}); choose another folder with --out"
            )
        if resume:
            self._check_same(recipe)

    def claim(self, recipe: BaseModel, precision: MeasuredPrecision | None, *, resume: bool, overwrite: bool) -> None:
        """Make the folder ready for this recipe: new, emptied of an earlier run, or as that run left it; and keep the measurement
        of its precision."""
        if not self.writes:
            return
        self.check(recipe, resume=resume, overwrite=overwrite)
        if overwrite:
            self._remove_run()
        try:
            (self.path / _MODELS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self.path}: {error.strerror}") from error
        write_text(self.path / RECIPE, dump_recipe(recipe))
        if precision is not None:
            write_precision(self.path, precision)

    def stage(self, name: str) -> Path:
        """The folder a stage works in."""
        return self.path / _STAGES / name

    def model(self, name: str) -> Path:
        """The artifact of a stage."""
        return self.path / _MODELS / f"{name}.fp"

    def finished(self, name: str) -> dict[str, Any] | None:
        """The record of a finished stage; None if it is not finished.

        Raises:
            ArtifactError: the record is damaged.
        """
        file = self.stage(name) / _RECORD
        if not file.is_file() or not self.model(name).is_file():
            return None
        try:
            record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{file} is damaged; remove it to do this stage again") from error
        return record

    def finish(self, name: str, record: dict[str, Any]) -> None:
        """Write a stage's record, last of all: from now on it is finished. Its checkpoint has served."""
        if self.writes:
            self.stage(name).mkdir(parents=True, exist_ok=True)
            write_text(self.stage(name) / _RECORD, json.dumps(record, indent=1, allow_nan=False))
            (self.stage(name) / CHECKPOINT).unlink(missing_ok=True)

    def write_results(self, results: dict[str, Any]) -> None:
        """Write ``results.json``."""
        write_json(self.path / RESULTS, results)

    def write_cell(self, name: str, results: dict[str, Any]) -> None:
        """Write the results of one of many runs that share this folder."""
        (self.path / _RESULTS_OF_CELLS).mkdir(exist_ok=True)
        write_json(self.path / _RESULTS_OF_CELLS / f"{name}.json", results)

    def _holds_something(self) -> bool:
        return self.path.is_dir() and any(self.path.iterdir())

    def _check_same(self, recipe: BaseModel) -> None:
        file = self.path / RECIPE
        try:
            before = _in_todays_words(yaml.safe_load(file.read_text(encoding="utf-8")), type(recipe))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise OutputError(f"cannot read {file}; start anew with --overwrite") from error
        now = yaml.safe_load(dump_recipe(recipe))
        difference = first_difference(before, now)
        if difference is not None:
            raise OutputError(
                f"{self.path} holds a run of another recipe ({difference}); resume with the same one, or choose another "
                "folder with --out"
            )

    def _remove_run(self) -> None:
        """Remove what a run wrote, and nothing else that somebody put beside it."""
        for name in (RESULTS, REPORT, MODEL, COMPARISON, PRECISION):
            (self.path / name).unlink(missing_ok=True)
        for left in (self.path / _RESULTS_OF_CELLS).glob("*-seed[0-9]*.json"):
            left.unlink()
        for artifact in (self.path / _MODELS).glob("*.fp"):
            artifact.unlink()
        shutil.rmtree(self.path / _STAGES, ignore_errors=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file of results, as a whole or not at all."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _in_todays_words(content: Any, schema: type[BaseModel]) -> Any:
    """A recipe as an earlier version wrote it, with the keys it did not know yet as they were meant."""
    try:
        return yaml.safe_load(dump_recipe(schema.model_validate(content)))
    except ValidationError:
        return content


def first_difference(before: Any, now: Any, key: str = "") -> str | None:
    """The first key, dotted, whose value is another one now, and both values in words; None where all are the same."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*now, *(name for name in before if name not in now)]:
            found = first_difference(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))
            if found is not None:
                return found
        return None
    return None if before == now else f"{key} was {before!r} and is {now!r}"
