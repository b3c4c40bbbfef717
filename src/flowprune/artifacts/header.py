"""The header of an artifact: how to rebuild the architecture, as JSON among the metadata of a safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flowprune.engine.allocation import Plan
from flowprune.engine.steps.lineage import Step
from flowprune.errors import ArtifactError, one_line
from flowprune.methods.codecs.stored_model import MaskForm

FORMAT = 2
FIRST_FORMAT = 1
"""That of version 0.1: it knew cuts alone, and has their plans where there are steps now."""
METADATA_KEY = "flowprune"


@dataclass(frozen=True)
class Header:
    """Everything in an artifact but the weights. Plain data: reading it runs no code.

    Attributes:
        architecture: class of the model, for messages.
        builder: the name ``flowprune.models.create`` knows, or None for a model of the user's own.
        options: keyword arguments of the builder.
        steps: what was done since, oldest first.
        shared: name -> the name its tensor is stored under, for tensors that several modules share.
        coded: name of a tensor that a codec stores -> the codec's header, its number type, and its parts.
        masks: name of a parameter -> "zeros" where its mask is seen by its zeros, "bits" where it is stored.
        notes: what the writer added ({"input": [1, 16, 16], "data": "digits"}), JSON-able.
        versions: of flowprune and torch when it was written.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    architecture: str
    builder: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    shared: Mapping[str, str] = field(default_factory=dict)
    coded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    masks: Mapping[str, MaskForm] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def plans(self) -> tuple[Mapping[str, Any], ...]:
        """Every cut since, oldest first, as ``Plan.as_dict`` writes them."""
        return tuple(step.data for step in self.steps if step.kind == "cut")

    def cuts(self) -> list[Plan]:
        """The plans, ready to be carried out again.

        Raises:
            ArtifactError: one of them is not a plan.
        """
        return [Plan.from_dict(plan) for plan in self.plans]

    def as_metadata(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """As safetensors keeps it, with a digest over itself and the tensors it goes with.

        Raises:
            ArtifactError: the notes are not plain JSON values.
        """
        content = {"format": FORMAT, **asdict(self)}
        try:
            check = digest(content, tensors)
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"options and notes of an artifact must be plain JSON values ({error})") from error
        # One key only: safetensors writes several in an order that changes from run to run.
        return {METADATA_KEY: json.dumps({"sha256": check, "header": content})}

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, str] | None, path: Path, tensors: Mapping[str, Tensor] | None = None
    ) -> Header:
        """What ``as_metadata`` wrote into the file ``path``.

        Args:
            metadata: of the file.
            path: for messages.
            tensors: of the file, to be checked against the digest; not checked if None.

        Raises:
            ArtifactError: it is no such header, one of another format, or not what was written.
        """
        if not metadata or METADATA_KEY not in metadata:
            raise ArtifactError(
                f"{path} is a safetensors file, but no artifact of flowprune; to start from its weights, name a model "
                "and give the file as its weights"
            )
        try:
            whole = json.loads(metadata[METADATA_KEY])
            check, content = whole["sha256"], whole["header"]
            if content["format"] not in (FIRST_FORMAT, FORMAT):
                raise ArtifactError(
                    f"{path} has artifact format {content['format']!r}; this version reads {FIRST_FORMAT} and {FORMAT}"
                )
            if tensors is not None and digest(content, tensors) != check:
                raise ArtifactError(f"{path} is damaged: it is not what was written (SHA-256 differs); copy it again")
            fields = {key: value for key, value in content.items() if key != "format"}
            if content["format"] == FIRST_FORMAT:
                fields["steps"] = [{"kind": "cut", "data": plan} for plan in fields.pop("plans")]
            return TypeAdapter(cls).validate_python(fields)
        except ValidationError as error:  # a header is read from a file that anybody may have written
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise ArtifactError(
                f"{path}: the header is damaged ({place} is not what it must be); save it again"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(
                f"{path}: the header is damaged ({type(error).__name__}: {one_line(error)}); save it again"
            ) from error


def digest(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a header and its tensors: one changed bit of a size or a weight would make another model, silently."""
    running = hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        running.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        running.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return running.hexdigest()


def read_header(path: str | Path) -> Header:
    """The header of an artifact, without its weights.

    Raises:
        ArtifactError: the file is missing, damaged or foreign.
    """
    file = Path(path)
    check_is_file(file)
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata()
    except (SafetensorError, OSError, ValueError) as error:
        raise unreadable(file, error) from error
    return Header.from_metadata(metadata, file)


def check_is_file(file: Path) -> None:
    """Raise an ``ArtifactError`` unless ``file`` is one."""
    if not file.is_file():
        raise ArtifactError(f"no artifact {file}" + (": it is a folder" if file.is_dir() else ""))


def unreadable(file: Path, error: Exception) -> ArtifactError:
    """What to say of a file that is no safetensors."""
    return ArtifactError(f"cannot read {file}: it is damaged, cut off, or no artifact of flowprune ({one_line(error)})")
