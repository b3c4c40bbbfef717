"""What a compression has found so far, in its folder: what is there is not done again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowprune.artifacts.atomic_write import replacing
from flowprune.engine.allocation import Plan
from flowprune.engine.allocation.composition import cuts_between
from flowprune.engine.measuring.batches import model_device
from flowprune.errors import ArtifactError, OutputError
from flowprune.pruning import prune
from flowprune.studies.pipeline.run_folder import first_difference, write_json

RECORD, MODELS, ROUNDS = "compress.json", "models", "rounds"
ARTIFACT, ONNX, REPORT = "model.fp", "model.onnx", "report.html"
FORMAT = 1


class CompressionRecord:
    """The record ``compress.json`` and the models in ``models/``; without a folder, in memory alone.

    Attributes:
        content: what is found, JSON-able; "asked" is what it was found under.
    """

    def __init__(self, folder: str | Path | None, asked: Mapping[str, Any], *, resume: bool = False) -> None:
        self.folder = None if folder is None else Path(folder)
        self.content: dict[str, Any] = {"format": FORMAT, "asked": json.loads(json.dumps(asked)), "seconds": 0.0}
        self._kept: dict[str, nn.Module] = {}
        self._began = time.monotonic()
        if self.folder is None:
            return
        file = self.folder / RECORD
        if file.exists():
            self._go_on(file, resume)
        try:
            (self.folder / MODELS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self.folder}: {error.strerror}") from error
        self._write()

    @property
    def seconds(self) -> float:
        """That it has taken so far, in all its starts."""
        return time.monotonic() - self._began

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """What was found under a key; found now, and written down, if it is not there."""
        if key not in self.content:
            self.put(key, make())
        return self.content[key]

    def put(self, key: str, value: Any) -> None:
        """Write something down."""
        self.content[key] = json.loads(json.dumps(value, allow_nan=False))
        self._write()

    def round_folder(self, name: str) -> Path | None:
        """Where the training of a round keeps its state."""
        return None if self.folder is None else self.folder / ROUNDS / name

    def keep(self, name: str, small: nn.Module, dense: nn.Module) -> None:
        """Keep a model that cuts have made of ``dense``: the cuts and the weights."""
        if self.folder is None:
            self._kept[name] = small
            return
        plans = json.dumps([plan.as_dict() for plan in cuts_between(dense, small)])
        with replacing(self._file(name)) as temporary:
            torch.save({"plans": plans, "state": small.state_dict()}, temporary)

    def kept(self, name: str, dense: nn.Module) -> nn.Module | None:
        """The model that was kept under a name; None if there is none.

        Raises:
            ArtifactError: its file is damaged, or of another network.
        """
        if self.folder is None or not self._file(name).is_file():
            return self._kept.get(name)
        try:
            written = torch.load(self._file(name), map_location=model_device(dense), weights_only=True)
            small = dense
            for plan in json.loads(written["plans"]):
                small = prune(small, Plan.from_dict(plan))
            small.load_state_dict(written["state"])
        except Exception as error:  # whatever a damaged file makes the readers stumble over
            raise ArtifactError(f"cannot read {self._file(name)}; remove it to do this again") from error
        return small

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / MODELS / f"{name}.pt"

    def _write(self) -> None:
        self.content["seconds"] = round(self.seconds, 1)
        if self.folder is not None:
            write_json(self.folder / RECORD, self.content)

    def _go_on(self, file: Path, resume: bool) -> None:
        if not resume:
            raise OutputError(f"{self.folder} holds a compression; resume goes on with it, or choose another folder")
        try:
            written = json.loads(file.read_text(encoding="utf-8"))
            before, spent = dict(written["asked"]), float(written["seconds"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{file} is damaged; remove it to begin anew") from error
        difference = first_difference(before, self.content["asked"])
        if difference is not None:
            raise OutputError(f"{self.folder} holds another compression ({difference}); resume it as it was begun")
        self.content = written
        self._began -= spent


def remove_compression(folder: Path) -> None:
    """Remove what an earlier compression left in the folder, and nothing else.

    Raises:
        OutputError: there is something, and no compression.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise OutputError(f"{folder} holds other files than a compression's; choose another folder with --out")
    for name in (RECORD, REPORT, ARTIFACT, ONNX):
        (folder / name).unlink(missing_ok=True)
    for name in (MODELS, ROUNDS):
        shutil.rmtree(folder / name, ignore_errors=True)
