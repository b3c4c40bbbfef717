"""A check sum over parts, so that damage is noticed before it is decoded."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.interfaces import Parts
from flowprune.errors import ArtifactError


def sealed(codec: str, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Parts:
    """The parts with the codec's name and a CRC-32 over all of them in their header."""
    named = {"codec": codec, **header}
    return Parts({**named, "crc32": _check_sum(named, arrays)}, arrays)


def opened(parts: Parts, codec: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays of parts that are what was sealed.

    Raises:
        ArtifactError: they are another codec's, or damaged.
    """
    header = dict(parts.header)
    if header.get("codec") != codec:
        raise ArtifactError(f"parts of the codec {header.get('codec')!r} cannot be decoded by {codec!r}")
    check = header.pop("crc32", None)
    if not all(isinstance(array, np.ndarray) for array in parts.arrays.values()) or check != _check_sum(
        header, parts.arrays
    ):
        raise ArtifactError(f"damaged parts of the codec {codec!r}: the check sum differs; encode the array again")
    return header, parts.arrays


def _check_sum(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> int:
    check = zlib.crc32(json.dumps(header, sort_keys=True, default=str).encode())
    for name in sorted(arrays):
        array = arrays[name].astype(arrays[name].dtype.newbyteorder("<"))
        check = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), check)
        check = zlib.crc32(array.tobytes(), check)
    return check
