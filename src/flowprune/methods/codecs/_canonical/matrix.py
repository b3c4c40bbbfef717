"""An array as the matrix of numbers that a codec sees, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowprune.errors import ArtifactError, FlowpruneError


class Distinct(NamedTuple):
    """The different numbers of an array, the most frequent first, then the smallest. Numbers differ if a bit of theirs does."""

    symbols: NDArray[Any]
    codes: NDArray[np.int64]
    counts: NDArray[np.int64]


def size_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the matrix: the first dimension, and all others as one."""
    rows = shape[0] if shape else 1
    return rows, int(np.prod(shape[1:], dtype=np.int64))


def as_matrix(array: NDArray[Any]) -> NDArray[Any]:
    """``[rows, columns]``, numbers in the byte order of the machine.

    Raises:
        FlowpruneError: the array holds no whole or floating-point numbers of at most 8 bytes.
    """
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise FlowpruneError(
            f"an array of {array.dtype} cannot be encoded; hand in whole or floating-point numbers of at most 8 bytes"
        )
    return array.astype(array.dtype.newbyteorder("=")).reshape(size_of(array.shape))


def as_array(matrix: NDArray[Any], header: dict[str, Any]) -> NDArray[Any]:
    """The array that ``as_matrix`` was given, by what its header says of it."""
    return matrix.astype(np.dtype(header["dtype"])).reshape(header["shape"])


def description(array: NDArray[Any]) -> dict[str, Any]:
    """What ``as_array`` needs, as JSON values."""
    return {"dtype": array.dtype.str, "shape": list(array.shape)}


def checked_symbols(symbols: NDArray[Any], header: dict[str, Any]) -> NDArray[Any]:
    """The symbols, if they are numbers of the array's type.

    Raises:
        ArtifactError: they are not.
    """
    if symbols.dtype != np.dtype(header["dtype"]).newbyteorder("="):
        raise ArtifactError(f"damaged parts: symbols of {symbols.dtype} in an array of {header['dtype']}")
    return symbols


def distinct(values: NDArray[Any]) -> Distinct:
    """The different numbers of ``values`` [n], each number's place among them, and how often it occurs."""
    patterns, inverse, counts = np.unique(
        values.view(f"u{values.dtype.itemsize}"), return_inverse=True, return_counts=True
    )
    symbols = patterns.view(values.dtype)
    order = np.lexsort((symbols, -counts))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return Distinct(symbols[order], rank[inverse.ravel()], counts[order])
