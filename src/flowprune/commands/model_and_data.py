"""What a command works on: a model given as an artifact or by name, and the data and input that go with it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from flowprune.artifacts import load, read_header
from flowprune.commands.device import ALLOWED
from flowprune.commands.known_names import DATA_OPTIONS, is_artifact
from flowprune.commands.options import image_shape
from flowprune.commands.usual_input import usual_input
from flowprune.engine.measuring import check_finite
from flowprune.errors import (
    ArtifactError,
    DataError,
    FlowpruneError,
    FlowpruneWarning,
    ModelError,
    RecipeError,
    UnknownNameError,
    one_line,
)
from flowprune.methods.importance import REGISTRY
from flowprune.models import create
from flowprune.studies.recipe_file import checked_sections
from flowprune.studies.sections import DataSection
from flowprune.training import Data, load_data


@dataclass(frozen=True)
class Subject:
    """A model, and what its artifact notes about its data."""

    model: nn.Module
    notes: Mapping[str, Any] = field(default_factory=dict)

    def data(self, name: str | None, data_dir: Path | None, options: Mapping[str, Any]) -> Data:
        """The data set asked for, or the one the artifact was trained on, with its normalization and size.

        Raises:
            DataError: neither is known, or the model does not run on it.
        """
        for option in options:
            if option not in DATA_OPTIONS:
                raise UnknownNameError("data option", option, DATA_OPTIONS)
        noted = self.notes.get("data") if isinstance(self.notes.get("data"), Mapping) else {}
        assert isinstance(noted, Mapping)
        chosen = name or noted.get("name")
        if not isinstance(chosen, str):
            raise DataError("no data set is known for this model; name one with --data")
        known = {key: noted.get(key) for key in ("normalize", "size")} if chosen == noted.get("name") else {}
        merged: dict[str, Any] = {**{key: value for key, value in known.items() if value is not None}, **options}
        section = checked_sections(DataSection, {"name": chosen, **merged}, "--data-option")
        data = load_data(**section.model_dump(), data_dir=data_dir)
        self.run_on(data.example_input())
        return data

    def data_if_there(
        self, name: str | None, data_dir: Path | None, options: Mapping[str, Any], *, needed: bool, wanted: bool
    ) -> Data | None:
        """As ``data``; None where nothing needs it and it is not there.

        Args:
            name, data_dir, options: as for ``data``.
            needed: whether something does.
            wanted: whether the data set that the artifact notes is of use, too.
        """
        if name is None and not (wanted and "data" in self.notes):
            return None
        try:
            return self.data(name, data_dir, options)
        except FlowpruneError as error:
            if needed:
                raise
            warnings.warn(f"the accuracy is not measured: {error}", FlowpruneWarning, stacklevel=2)
            return None

    def gives_logits_of(self, data: Data) -> bool:
        """Whether the model's outputs are logits of the data set's classes."""
        return _logits_of(data, self.run_on(data.example_input()))

    def notes_on(
        self, x: Tensor, data: Data | None = None, named: str | None = None, options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What the artifact of a model made of this one notes; its accuracy is another.

        Args:
            x: an image.
            data: what was looked at.
            named: the data set that was asked for, with its ``options``; None where it is the artifact's own.
        """
        kept = {key: value for key, value in self.notes.items() if key != "top1"}
        noted = {**kept, "input": list(x.shape[1:]), **(data.notes() if data is not None else {})}
        if data is not None and named is not None:
            noted["data"] = {"name": data.name, **{key: (options or {}).get(key) for key in ("normalize", "size")}}
        return noted

    def labelled_data(self, name: str | None, data_dir: Path | None, options: Mapping[str, Any]) -> Data:
        """As ``data``, for what compares the model's outputs with the labels.

        Raises:
            DataError: also where the outputs are no logits of the data set's classes.
        """
        data = self.data(name, data_dir, options)
        logits = self.run_on(data.example_input())
        if not _logits_of(data, logits):
            what = (
                f"of shape {list(logits.shape)}" if isinstance(logits, Tensor) else f"that is a {type(logits).__name__}"
            )
            raise DataError(
                f"the model gives an output {what}, {data.name} needs [images, {data.classes}]; name the data set it was "
                "trained on, or build it with that many classes"
            )
        return data

    def example(self, shape: str | None) -> Tensor:
        """An image of zeros of the shape asked for, of the one that the artifact notes, or of that usual for the network.

        Raises:
            RecipeError: none is known.
        """
        noted = self.notes.get("input")
        if shape is not None:
            x = torch.zeros(1, *image_shape(shape))
        elif isinstance(noted, list) and noted and all(isinstance(size, int) and size > 0 for size in noted):
            x = torch.zeros(1, *noted)
        elif (usual := usual_input(self.model)) is not None:
            x = torch.zeros(1, *usual)
        else:
            raise RecipeError("the shape of an image is not known for this model; give it with --input, like 3x32x32")
        self.run_on(x)
        return x

    def run_on(self, x: Tensor) -> Any:
        """What the model returns in evaluation mode.

        Raises:
            ModelError: it does not take such an input.
        """
        mode = self.model.training
        try:
            with torch.no_grad():
                return self.model.eval()(x)
        except Exception as error:  # the user's forward
            raise ModelError(
                f"the model does not run on an image of shape {list(x.shape[1:])}: {one_line(error, 200)}"
            ) from error
        finally:
            self.model.train(mode)


def _logits_of(data: Data, outputs: Any) -> bool:
    """Whether outputs are logits of the data set's classes."""
    return isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] >= data.classes


def subject(
    reference: str, *, builder: str | None = None, options: Mapping[str, Any] | None = None, weights: Path | None = None
) -> Subject:
    """The model of an artifact (a file), or of a builder's name.

    Args:
        reference: path of an artifact or name of a model.
        builder: builds the dense model of an artifact that cannot be rebuilt by itself.
        options: of the model's builder.
        weights: for a model given by name.

    Raises:
        FlowpruneError: there is no such model, it does not load, or it holds NaN.
    """
    given = dict(options or {})
    classes = given.pop("classes", None)
    path = Path(reference)
    if is_artifact(reference):
        if weights is not None:
            raise ModelError(f"--weights is for a model given by name; {reference} holds its own")
        notes = read_header(path).notes
        dense = create(builder, classes=classes, **given) if builder is not None else None
        if dense is None and (given or classes is not None):
            raise ModelError(f"--model-option is for a model given by name; {reference} knows its own options")
        found = Subject(load(path, model=dense, allow=ALLOWED), notes)
    else:
        if builder is not None:
            raise ArtifactError(f"--builder is for artifacts; {reference!r} is a model's name already")
        found = Subject(create(reference, classes=classes, weights=weights, **given))
    check_finite(found.model)
    return found


def subject_beside(
    reference: str, *, builder: str | None, options: Mapping[str, Any], weights: Path | None = None
) -> Subject:
    """As ``subject``, for one of several models: the builder is for the artifacts among them, the options are for the others."""
    artifact = is_artifact(reference)
    given = options if not artifact or builder is not None else None
    return subject(reference, builder=builder if artifact else None, options=given, weights=weights)


def here() -> torch.device:
    """The device that was asked for, or the fastest there is.

    Raises:
        ModelError: there is none of that name here.
    """
    device: torch.device = PartialState().device
    try:
        torch.zeros(1, device=device)
    except Exception as error:  # each kind of device has errors of its own
        raise ModelError(
            f"there is no device {device} here ({one_line(error, 120)}); leave --device out, or use --device cpu"
        ) from error
    return device


def needs_data(importance: str) -> bool:
    """Whether a criterion looks at images.

    Raises:
        UnknownNameError: nothing has this name.
    """
    return bool(getattr(REGISTRY[importance], "needs_data", False))
