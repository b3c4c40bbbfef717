"""What of a stage's record is committed: what the tables and a doubting reader need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowprune.studies.pipeline.stages import Record

HISTORY = ("task_loss", "penalty", "train_accuracy", "strength", "dead_share", "macs_left")


def kept(record: Record) -> dict[str, Any]:
    """The row's figures; of a cut what it took; of a training a line an epoch, the flow's coefficients, and the seconds of all its
    epochs, also where it was interrupted."""
    found = {key: value for key, value in record["row"].items() if key not in ("network", "method", "stage")}
    if "plan" in record:
        found["branches"] = [
            f"{part['module']}: {part['kind']}, {part['live']} live" for part in record["plan"]["branches"]
        ]
        found["channels"] = {layer["layer"]: f"{layer['kept']} of {layer['dense']}" for layer in record["channels"]}
    history = record.get("history")
    if history is not None:
        # One line an epoch; the test accuracy of the last one is the row's.
        found["history"] = {key: column(history, key) for key in HISTORY}
    if record.get("coefficients") is not None:
        found["coefficients"] = record["coefficients"]
    seconds = sum(epoch["seconds"] for epoch in history) if history else 0.0
    return {**found, "seconds": round(max(seconds, record["seconds"]), 1)}


def column(history: list[Mapping[str, Any]], key: str) -> str | None:
    """A figure over the epochs, in one line; None where there is none."""
    values = [epoch.get(key) for epoch in history]
    return None if all(value is None for value in values) else " ".join(f"{value:.5g}" for value in values)
