"""The state a killed training goes on from: one file, replaced as a whole after every epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flowprune.errors import ArtifactError, OutputError

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"

NOT_SAID_BEFORE: dict[str, Any] = {"optimizer": "sgd", "optimizer_options": {}, "weight_decay_on": "all"}
"""Settings that checkpoints of an earlier version do not have, and what they were trained with."""


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write ``checkpoint.pt``: a reader finds the old state or the new one, never half of one, whenever we are
    killed.
    """
    temporary = folder / f"{CHECKPOINT}.partial"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / CHECKPOINT)


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state in the folder; None if there is none yet.

    Raises:
        ArtifactError: it cannot be read.
    """
    file = folder / CHECKPOINT
    if not file.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        dict(state["settings"])
    except Exception as error:  # whatever the reader stumbles over in a damaged file
        raise ArtifactError(f"cannot read the checkpoint {file}; remove it to train from the start") from error
    return state


def check_settings(folder: Path, state: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise an ``OutputError`` if the state of a folder belongs to a training with other settings."""
    before = {**NOT_SAID_BEFORE, **state["settings"]}
    changed = [key for key in settings if before.get(key) != settings[key]]
    if changed:
        was, now = before.get(changed[0]), settings[changed[0]]
        raise OutputError(
            f"{folder / CHECKPOINT} belongs to a training with {changed[0]}: {was} instead of {now}; resume with the same "
            "settings, or use another output folder"
        )


def write_metrics(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write ``metrics.jsonl`` anew, one line an epoch: what a killed run left may be an epoch ahead of the
    checkpoint.
    """
    temporary = folder / f"{METRICS}.partial"
    temporary.write_text("".join(json.dumps(epoch) + "\n" for epoch in history))
    temporary.replace(folder / METRICS)


def append_metrics(folder: Path, epoch: dict[str, Any]) -> None:
    """Add the line of one epoch."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(epoch) + "\n")
