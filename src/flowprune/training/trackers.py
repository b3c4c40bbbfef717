"""Experiment trackers: whatever Accelerate knows (TensorBoard, Weights & Biases, MLflow, ...), fed with every epoch's figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowprune.errors import MissingLibraryError, UnknownNameError


@contextmanager
def tracked(
    name: str | None, run: str, folder: Path, settings: Mapping[str, Any]
) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """Open a tracker and give what is to be called with every epoch's record; None without a name.

    Args:
        name: as Accelerate calls it: "tensorboard", "wandb", "mlflow", ...
        run: name of the run in it.
        folder: where those that write files do.
        settings: of the training, written down with the run.

    Raises:
        UnknownNameError: Accelerate has no such tracker.
        MissingLibraryError: its library is not installed.
    """
    if name is None:
        yield None
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = {str(getattr(key, "value", key)): tracker for key, tracker in LOGGER_TYPE_TO_CLASS.items()}
    if name not in known:
        raise UnknownNameError("tracker", name, known, name_all=True)
    if name not in {str(getattr(key, "value", key)) for key in get_available_trackers()}:
        raise MissingLibraryError(f"the tracker {name} is not installed: pip install {name}")
    kind = known[name]
    tracker = kind(run, logging_dir=str(folder)) if kind.requires_logging_directory else kind(run)
    if hasattr(tracker, "start"):
        tracker.start()
    tracker.store_init_configuration(
        {key: value for key, value in settings.items() if isinstance(value, int | float | str)}
    )

    def each_epoch(record: dict[str, Any]) -> None:
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float) and key != "epoch"}
        tracker.log(numbers, step=record["epoch"])

    try:
        yield each_epoch
    finally:
        tracker.finish()
