"""What is refused by its name alone, before torch is imported: networks, criteria and data sets of this package, missing files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel

from flowprune.errors import ArtifactError, UnknownNameError, checked_name
from flowprune.methods import names_before_import
from flowprune.models.own_names import OWN_NAMES, UnknownModelError
from flowprune.studies.recipe_file import checked_sections, override, read_content, where_of
from flowprune.training.data_names import DATA_SETS
from flowprune.training.settings import TrainingSettings

DATA_OPTIONS = ("normalize", "size", "subset", "workers", "unreadable")


class _Trainings(BaseModel):
    """The sections of a recipe that say how to train."""

    training: TrainingSettings | None = None
    finetuning: TrainingSettings | None = None


def refuse_unknown(
    *models: str,
    builder: str | None = None,
    importance: str | None = None,
    allocator: str | None = None,
    data: str | None = None,
    data_option: Sequence[str] | None = None,
) -> None:
    """Look at the names that a command was given, as far as that needs no library.

    Args:
        *models: artifacts, or names of models.
        builder: name of the model that an artifact is of.
        importance: a criterion.
        allocator: who shares a budget out.
        data: a data set.
        data_option: its options, key=value.

    Raises:
        UnknownNameError: a name is none of this package's, and of nobody else's.
        ArtifactError: a file is not there.
    """
    for model in models:
        if is_artifact(model):
            if not Path(model).is_file():
                raise ArtifactError(f"no artifact {model}" + (": it is a folder" if Path(model).is_dir() else ""))
        else:
            _refuse_unknown_model(model)
    if builder is not None:
        _refuse_unknown_model(builder)
    if importance is not None:
        refuse_unknown_method("importance", "importance", importance)
    if allocator is not None:
        refuse_unknown_method("allocator", "allocators", allocator)
    if data is not None:
        checked_name("data set", data, DATA_SETS)
    for option in data_option or ():
        key = option.partition("=")[0].strip()
        if "=" in option and key not in DATA_OPTIONS:
            raise UnknownNameError("data option", key, DATA_OPTIONS)


def refuse_unknown_method(kind: str, room: str, name: str) -> None:
    """Raise an ``UnknownNameError`` for a name that no method of a room of ``flowprune.methods`` has."""
    checked_name(kind, name, names_before_import(room))


def refuse_unknown_in(recipe: Path | None, changes: Sequence[str]) -> None:
    """Look at a recipe's names and the settings of its trainings, as far as that needs no library; all of it is checked by whoever
    reads it.

    Raises:
        RecipeError: the file is missing or no YAML, a change is none, or a training has no such setting.
        UnknownNameError: a name is none of this package's, and of nobody else's.
    """
    content = read_content(recipe)
    override(content, changes)
    networks = content.get("networks", content.get("network"))
    for network in networks if isinstance(networks, list) else [networks]:
        name = network.get("name") if isinstance(network, dict) else network
        if isinstance(name, str):
            _refuse_unknown_model(name)
    data = content.get("data")
    if isinstance(data, dict) and isinstance(data.get("name"), str):
        checked_name("data set", data["name"], DATA_SETS)
    pruning = content.get("pruning")
    importance = pruning.get("importance") if isinstance(pruning, dict) else None
    if isinstance(importance, dict) and isinstance(importance.get("name"), str):
        refuse_unknown_method("importance", "importance", importance["name"])
    checked_sections(_Trainings, {key: content.get(key) for key in _Trainings.model_fields}, where_of(recipe))


def _refuse_unknown_model(name: str) -> None:
    if ":" not in name and name not in OWN_NAMES:
        raise UnknownModelError(name)


def is_artifact(reference: str) -> bool:
    """Whether a file is meant, be it there or not, rather than a model's name."""
    looks_like_a_path = re.search(r"[/\\]|\.fp$|\.safetensors$|\.pt$|\.th$|\.onnx$", reference)
    return Path(reference).exists() or (reference not in OWN_NAMES and looks_like_a_path is not None)


def complete_models(typed: str) -> list[str]:
    """What a shell may offer for a model: this package's networks, prefixes of others, artifacts here."""
    files = [str(file) for file in Path.cwd().glob("*.fp")]
    known = [*OWN_NAMES, "torchvision:", "timm:", *(Path(file).name for file in files)]
    return [name for name in known if name.startswith(typed)]


def complete_methods(room: str) -> Callable[[str], list[str]]:
    """What a shell may offer for a method of a room of ``flowprune.methods``."""

    def offered(typed: str) -> list[str]:
        return [name for name in names_before_import(room) if name.startswith(typed)]

    return offered


def complete_data_sets(typed: str) -> list[str]:
    """What a shell may offer for a data set."""
    return [name for name in DATA_SETS if name.startswith(typed)]
