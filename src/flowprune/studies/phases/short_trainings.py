"""What an allocator is handed in that judges widths by short trainings."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from flowprune.artifacts.atomic_write import write_text
from flowprune.errors import ArtifactError, RecipeError
from flowprune.studies.phases.working import Work
from flowprune.training import TrainingSettings, evaluate, train
from flowprune.training.splits import split_off

HELD_OUT = 0.2
"""The share of the training images that no candidate is trained on, and all are judged by."""
FILE = "fitness.json"


def short_trainings(work: Work, settings: TrainingSettings | None) -> dict[str, Any]:
    """The options ``accuracy`` and ``known`` of such an allocator: each candidate is trained once, in whichever process.

    Args:
        work: of the phase; images are held out from its training images, and fitness is kept in its folder.
        settings: how a candidate is trained.

    Raises:
        RecipeError: nothing says how, or there are not enough images.
    """
    if settings is None or settings.epochs < 1:
        raise RecipeError(f"{work.title}: the allocator trains its candidates; say how long in between: {{epochs: 3}}")
    held_out = round(HELD_OUT * len(work.data.train))
    if held_out < 1:
        raise RecipeError(f"{work.title}: {len(work.data.train)} training images are too few to hold some out")
    chosen, others = split_off(work.data.train, held_out, work.seed)
    data = replace(work.data, train=others, test=chosen)
    last_epoch_only = settings.model_copy(update={"evaluate_every": settings.epochs})

    def accuracy(candidate: nn.Module) -> float:
        train(candidate, data, last_epoch_only, progress=False)
        return evaluate(candidate, data).top1

    return {"accuracy": accuracy, "known": KeptOnDisk(work.folder / FILE)}


class KeptOnDisk(MutableMapping[str, float]):
    """Numbers by name in a JSON file, written whole after each that is added.

    Raises:
        ArtifactError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers: dict[str, float] = {}
        if path.is_file():
            try:
                self._numbers = {str(key): float(value) for key, value in json.loads(path.read_text("utf-8")).items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise ArtifactError(f"{path} is damaged; remove it, and its trainings are done again") from error

    def __getitem__(self, key: str) -> float:
        return self._numbers[key]

    def __setitem__(self, key: str, value: float) -> None:
        self._numbers[key] = value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps(self._numbers, indent=1))

    def __delitem__(self, key: str) -> None:
        del self._numbers[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)
