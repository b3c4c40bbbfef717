"""What a training decided, as a file: the phases after it may come in another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowprune.artifacts.atomic_write import replacing
from flowprune.engine.interfaces import Outcome
from flowprune.errors import ArtifactError

_TENSORS = ("leaves", "scores", "masks", "bits", "weights")


def write_outcome(outcome: Outcome, path: Path) -> None:
    """Write ``outcome``: its tensors by kind and name, the replacements beside them."""
    said = {kind: value for kind in _TENSORS if (value := getattr(outcome, kind)) is not None}
    tensors = {
        f"{kind}/{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for kind in said
        for name, tensor in said[kind].items()
    }
    named = {f"replacements/{name}": other for name, other in (outcome.replacements or {}).items()}
    kinds = [*said, *(["replacements"] if outcome.replacements is not None else [])]
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"kinds": " ".join(kinds), **named})


def bits_left(bits: Mapping[str, Tensor], plans: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The bits of the filters that cuts leave.

    Args:
        bits: name of a parameter -> one number a filter.
        plans: the cuts since, oldest first, as ``Plan.as_dict`` writes them.
    """
    left = dict(bits)
    for plan in plans:
        for name, own in left.items():
            removed = {int(dimension): indices for dimension, indices in plan["removed"].get(name, {}).items()}
            gone = [int(index) for index in removed.get(0, ())]
            stays = torch.ones(len(own), dtype=torch.bool).index_fill_(0, torch.tensor(gone, dtype=torch.int64), False)
            left[name] = own[stays]
    return left


def read_outcome(path: Path) -> Outcome | None:
    """The outcome in a file; None if there is no file.

    Raises:
        ArtifactError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, str] = file.metadata()
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            said: dict[str, dict[str, object]] = {kind: {} for kind in about["kinds"].split()}
            for name, value in [*found.items(), *((name, about[name]) for name in about if name != "kinds")]:
                kind, _, rest = name.partition("/")
                said[kind][rest] = value
            return Outcome(**said)  # type: ignore[arg-type]
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged; remove the folder it is in to do this stage again") from error
