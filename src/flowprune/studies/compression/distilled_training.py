"""The training of a round by this package's own loop, resumable, and no longer than there is time."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from flowprune.artifacts.atomic_write import write_text
from flowprune.studies.compression.rounds import Round
from flowprune.training import Data, TrainingSettings, train
from flowprune.training.splits import drawn

SETTINGS = "settings.json"
MEASURED_BATCHES = 6
"""Whose training says how long an epoch takes."""


class DistilledTraining:
    """Trains by the data's training images, taught by the dense network.

    Args:
        data: its test half is what epochs are evaluated on: validation images.
        settings: of all rounds together; each has its share of the epochs.
        progress: show bars on standard error.
        say: receives a line where the time is too short for all epochs.
    """

    def __init__(
        self,
        data: Data,
        settings: TrainingSettings,
        progress: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.data, self.settings, self.progress, self.say = data, settings, progress, say

    def __call__(self, small: nn.Module, told: Round) -> None:
        """Train in place, from the last epoch's state where there is one."""
        settings = self._settings(small, told)
        if settings.epochs:
            train(
                small,
                self.data,
                settings,
                run_folder=told.folder,
                regularizer=told.teacher,
                resume=told.folder is not None,
                progress=self.progress,
                title=told.title,
            )

    def _settings(self, small: nn.Module, told: Round) -> TrainingSettings:
        """Of this round: as when it was begun, or with as many epochs as there is time for."""
        file = None if told.folder is None else told.folder / SETTINGS
        if file is not None and file.is_file():
            return TrainingSettings(**json.loads(file.read_text(encoding="utf-8")))
        epochs = max(min(1, self.settings.epochs), round(self.settings.epochs * told.share))
        if told.seconds is not None and epochs:
            possible = int(told.seconds / self._seconds_an_epoch(small, told))
            if possible < epochs:
                self.say(f"{told.title}: {possible} of {epochs} epochs, which is what there is time for")
                epochs = possible
        warm_up = min(self.settings.warmup_epochs, epochs / 10)
        changed = {"epochs": epochs, "warmup_epochs": warm_up, "evaluate_every": max(1, epochs)}
        settings = self.settings.model_copy(update=changed)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, settings.model_dump_json())
        return settings

    def _seconds_an_epoch(self, small: nn.Module, told: Round) -> float:
        count = min(len(self.data.train), MEASURED_BATCHES * self.settings.batch_size)
        few = replace(self.data, train=drawn(self.data.train, count, 0), test=drawn(self.data.test, 1, 0))
        once = self.settings.model_copy(update={"epochs": 1, "warmup_epochs": 0.0})
        if once.precision == "auto":  # its measurement is the training's own
            once = once.model_copy(update={"precision": "float32"})
        measured = train(copy.deepcopy(small), few, once, regularizer=told.teacher, progress=False)
        return float(len(self.data.train) / measured.history[0]["images_per_second"])
