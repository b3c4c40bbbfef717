"""One precision for a whole run, where its recipe leaves it open: what is compared must not differ in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import yaml
from accelerate import Accelerator
from pydantic import BaseModel
from torch import nn

from flowprune.studies.pipeline.run_folder import RECIPE, RunFolder
from flowprune.training import Data, TrainingSettings
from flowprune.training.precision import MeasuredPrecision, measured_precision

Sections = TypeVar("Sections", bound=BaseModel)
_Change = Callable[[TrainingSettings, tuple[str, ...]], TrainingSettings]


def as_begun(recipe: Sections, folder: RunFolder) -> Sections:
    """The recipe with the precisions of the run in the folder, as its ``recipe.yaml`` has them, where it leaves them open."""
    try:
        before = yaml.safe_load((folder.path / RECIPE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return recipe  # a new run; or a damaged file, which the folder complains about when it is claimed

    def kept(settings: TrainingSettings, path: tuple[str, ...]) -> TrainingSettings:
        place: Any = before
        for part in (*path, "precision"):
            if isinstance(place, list):
                place = place[int(part)] if int(part) < len(place) else None
            else:
                place = place.get(part) if isinstance(place, dict) else None
        known = settings.precision == "auto" and place in ("float32", "bfloat16")
        return settings.model_copy(update={"precision": place}) if known else settings

    return _each_training(recipe, kept)


def measured(
    recipe: Sections, accelerator: Accelerator, data: Data, networks: Callable[[], list[nn.Module]]
) -> tuple[Sections, MeasuredPrecision | None]:
    """The recipe with the precision that its networks train fastest in, where it leaves it open, and the measurement, if one was
    needed.

    Args:
        recipe: a run's, or a comparison's.
        accelerator: whose processes share the training.
        data: what it trains on.
        networks: builds them, on their device.
    """
    left_open: list[TrainingSettings] = []

    def noted(settings: TrainingSettings, path: tuple[str, ...]) -> TrainingSettings:
        if settings.precision == "auto":
            left_open.append(settings)
        return settings

    _each_training(recipe, noted)
    epochs = sum(settings.epochs for settings in left_open)
    found = None
    if epochs > 0:
        size = next(settings.batch_size for settings in left_open if settings.epochs > 0)
        found = measured_precision(accelerator, networks(), data, batch_size=size, epochs=epochs)
    chosen = "float32" if found is None else found.precision

    def settled(settings: TrainingSettings, path: tuple[str, ...]) -> TrainingSettings:
        return settings.model_copy(update={"precision": chosen}) if settings.precision == "auto" else settings

    return _each_training(recipe, settled), found


def _each_training(section: Sections, change: _Change, path: tuple[str, ...] = ()) -> Sections:
    """The section with every training in it, at any depth, as ``change`` of it and its path."""
    held = {name: getattr(section, name) for name in type(section).model_fields}
    changed = {name: _changed(one, change, (*path, name)) for name, one in held.items()}
    return section.model_copy(update={name: one for name, one in changed.items() if one is not held[name]})


def _changed(held: Any, change: _Change, path: tuple[str, ...]) -> Any:
    if isinstance(held, TrainingSettings):
        return change(held, path)
    if isinstance(held, BaseModel):
        return _each_training(held, change, path)
    if isinstance(held, list):
        return [_changed(one, change, (*path, str(number))) for number, one in enumerate(held)]
    if isinstance(held, dict):
        return {name: _changed(one, change, (*path, str(name))) for name, one in held.items()}
    return held
