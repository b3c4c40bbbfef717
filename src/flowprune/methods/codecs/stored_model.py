"""A model's tensors as an artifact stores them, and back: what is quantized by its codec, everything else as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Codec, Parts
from flowprune.engine.steps.lineage import Lineage, lineage_of
from flowprune.engine.steps.own_tensors import own_tensors
from flowprune.errors import ArtifactError
from flowprune.methods.codecs.registry import REGISTRY

MaskForm = Literal["zeros", "bits"]
"""How a mask is written: it is seen by its parameter's zeros, or stored."""

_SAME_SIZE = {1: torch.uint8, 2: torch.int16}
"""What stands for the number types that numpy does not have."""


@dataclass(frozen=True)
class StoredModel:
    """What is written, but for the steps.

    Attributes:
        tensors: everything that is stored, by the name that it is stored under.
        shared: name -> the name its tensor is stored under, for tensors that several modules share.
        coded: name of a tensor that a codec stores -> the codec's header, its number type, and the names of its parts.
        masks: name of a parameter -> "zeros" where its mask is seen by its zeros, "bits" where it is stored.
    """

    tensors: dict[str, Tensor]
    shared: Mapping[str, str] = field(default_factory=dict)
    coded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    masks: Mapping[str, MaskForm] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def stored_model(model: nn.Module) -> StoredModel:
    """What an artifact of this model holds.

    A quantized tensor is stored by the codec of its last quantization, and takes ``ceil(bits(parts) / 8)`` bytes; as it is where
    that is no less, for small tensors, or such as were trained on and have as many values as weights again. A mask takes a bit a
    weight, and nothing where it is exactly where the weights are zero; one that nobody held in a training is none any more.

    Raises:
        ArtifactError: the model's state holds something else than dense tensors with data.
        UnknownNameError: a codec is not installed.
    """
    tensors, shared = own_tensors(model)
    lineage = lineage_of(model)
    masks = {name: mask for name, mask in lineage.masks.items() if name in tensors and is_held(tensors[name], mask)}
    kinds: dict[str, MaskForm] = {
        name: "zeros" if torch.equal(tensors[name] != 0, mask) else "bits" for name, mask in masks.items()
    }
    coded: dict[str, Mapping[str, Any]] = {}
    stored: dict[str, Tensor] = {}
    codecs = _codecs(lineage)
    for name, tensor in tensors.items():
        parts = encoded(tensor, codecs[name]) if name in codecs else None
        if parts is None:
            stored[name] = tensor
            continue
        coded[name] = {"header": parts.header, "kind": _kind(tensor), "parts": list(parts.arrays)}
        stored |= {_part(name, part): torch.from_numpy(array) for part, array in parts.arrays.items()}
    for name, mask in masks.items():
        if kinds[name] == "bits":
            stored[_bits(name)] = torch.from_numpy(np.packbits(mask.numpy().ravel()))
    return StoredModel(stored, shared, coded, kinds)


def restored_tensors(
    stored: StoredModel, codec_of: Callable[[str], Codec]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors again, bit for bit, each under its first name; and the masks.

    Args:
        stored: what ``stored_model`` gave.
        codec_of: a codec's name -> the codec.

    Raises:
        ArtifactError: a part is missing or damaged, or a weight is not zero where its mask says so.
    """
    left = dict(stored.tensors)
    tensors: dict[str, Tensor] = {}
    try:
        for name, entry in stored.coded.items():
            arrays = {part: left.pop(_part(name, part)).numpy() for part in entry["parts"]}
            tensors[name] = _decoded(Parts(dict(entry["header"]), arrays), entry["kind"], codec_of)
        packed = {name: left.pop(_bits(name)) for name, kind in stored.masks.items() if kind == "bits"}
        tensors |= left
        masks = {
            name: tensors[name] != 0 if name not in packed else _unpacked(packed[name], tensors[name].shape)
            for name in stored.masks
        }
    except KeyError as error:
        raise ArtifactError(f"the tensor {error.args[0]} is missing") from error
    for name, mask in masks.items():
        if not is_held(tensors[name], mask):
            raise ArtifactError(f"{name} has a weight where its mask says there is none")
    return tensors, masks


def is_held(tensor: Tensor, mask: Tensor) -> bool:
    """Whether a parameter is zero wherever its mask says so."""
    return not bool((tensor.detach().cpu() != 0)[~mask].any())


def encoded(tensor: Tensor, codec: Codec) -> Parts | None:
    """A tensor as a codec stores it; None where it takes no less than it does as it is."""
    whole = tensor.detach().cpu().contiguous()
    plain = whole if _has_numpy(whole) else whole.view(_SAME_SIZE[whole.element_size()])
    array = plain.numpy()
    if (fits := getattr(codec, "fits", None)) is not None:
        if not fits(array):
            return None  # trained on: the rows are on no grid any more
    elif 2 * len(np.unique(array.view(f"u{array.itemsize}"))) > array.size:
        return None  # they are no few values any more, and a code for each would take longer than it is worth
    parts = codec.encode(array)
    return parts if sum(part.nbytes for part in parts.arrays.values()) < array.nbytes else None


def _decoded(parts: Parts, kind: str, codec_of: Callable[[str], Codec]) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(codec_of(str(parts.header.get("codec"))).decode(parts)))
    number = getattr(torch, kind, None)
    if not isinstance(number, torch.dtype) or number.itemsize != tensor.element_size():
        raise ArtifactError(f"numbers of {tensor.dtype} cannot be {kind!r}")
    return tensor if tensor.dtype == number else tensor.view(number)


def _codecs(lineage: Lineage) -> dict[str, Codec]:
    """Parameter -> the codec of its last quantization."""
    found: dict[str, Codec] = {}
    for step in lineage.steps:
        if step.kind == "quantize":
            own = step.data.get("stored_with", {})
            codec = REGISTRY.built(step.data["codec"], step.data["codec_options"])
            for name in step.data["parameters"]:
                options = {**step.data["codec_options"], **own.get(name, {})}
                found[name] = REGISTRY.built(step.data["codec"], options) if name in own else codec
    return found


def _unpacked(packed: Tensor, shape: torch.Size) -> Tensor:
    count = shape.numel()
    if packed.dtype != torch.uint8 or packed.numel() != -(-count // 8):
        raise ArtifactError(f"a mask for {list(shape)} has {packed.numel()} bytes of {packed.dtype}")
    return torch.from_numpy(np.unpackbits(packed.numpy().ravel(), count=count).astype(bool)).view(shape)


def _has_numpy(tensor: Tensor) -> bool:
    return tensor.dtype not in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _part(name: str, part: str) -> str:
    return f"code:{part}:{name}"


def _bits(name: str) -> str:
    return f"mask:{name}"
