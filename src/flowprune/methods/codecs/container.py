"""Arrays as one string of bytes: a header, what the codecs count, and the arrays that no codec was given for."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.interfaces import Codec, Parts
from flowprune.errors import ArtifactError, FlowpruneError, counted
from flowprune.methods.codecs.huffman import Huffman
from flowprune.methods.codecs.packed_bits import PackedBits
from flowprune.methods.codecs.sparse_huffman import SparseHuffman

MARK = b"flowprune packed\n"


def pack(arrays: Mapping[str, NDArray[Any]], codecs: Mapping[str, Codec]) -> bytes:
    """Arrays as bytes.

    Args:
        arrays: by name.
        codecs: name -> the codec to store that array by; an array without one is stored as it is.

    Returns:
        The header, then for each array in the order given either the ``ceil(bits(parts) / 8)`` bytes of its parts or its
        own bytes; nothing else. ``header_size`` says how long the header is.

    Raises:
        FlowpruneError: a codec for a name that is no array's, or an array that a codec does not take.

    Example:
        >>> data = pack({"weight": weight, "bias": bias}, {"weight": SparseHuffman()})
        >>> unpack(data)["weight"]
    """
    unknown = sorted(set(codecs) - set(arrays))
    if unknown:
        raise FlowpruneError(
            f"a codec is given for {unknown[0]!r}, which is no array; there are {', '.join(sorted(arrays))}"
        )
    entries, payload = [], []
    for name, array in arrays.items():
        if name in codecs:
            parts = codecs[name].encode(np.asarray(array))
            stored = parts.arrays
            entry: dict[str, Any] = {"name": name, "header": parts.header}
            size = sum(part.nbytes for part in stored.values())
            if size != -(-codecs[name].bits(parts) // 8):
                raise FlowpruneError(
                    f"the codec of {name!r} counts {codecs[name].bits(parts)} bits and stores {size} bytes"
                )
        else:
            if np.asarray(array).dtype.kind not in "fiubc":
                raise FlowpruneError(f"the array {name!r} holds {np.asarray(array).dtype}, only numbers are packed")
            stored, entry = {"": np.asarray(array)}, {"name": name}
        entry["parts"] = [[key, part.dtype.newbyteorder("<").str, list(part.shape)] for key, part in stored.items()]
        entries.append(entry)
        payload += [part.astype(part.dtype.newbyteorder("<")).tobytes() for part in stored.values()]
    content = {"crc32": zlib.crc32(b"".join(payload), zlib.crc32(json.dumps(entries).encode())), "arrays": entries}
    header = json.dumps(content, separators=(",", ":")).encode()
    return b"".join([MARK, len(header).to_bytes(8, "little"), header, *payload])


def header_size(data: bytes) -> int:
    """Bytes of ``data`` before the first array.

    Raises:
        ArtifactError: it is not what ``pack`` wrote.
    """
    start = len(MARK) + 8
    size = start + int.from_bytes(data[len(MARK) : start], "little")
    if not data.startswith(MARK) or size > len(data):
        raise ArtifactError("damaged packed arrays: there is no whole header")
    return size


def unpack(data: bytes, codecs: Mapping[str, Codec] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays again, bit for bit.

    Args:
        data: what ``pack`` wrote.
        codecs: by registered name, beside the three of this package. Others' codecs are handed in here and never looked up,
            so bytes do not choose what is imported.

    Raises:
        ArtifactError: the bytes are damaged, or an array's codec is not at hand.
    """
    known: dict[str, Codec] = {"huffman": Huffman(), "sparse_huffman": SparseHuffman(), "packed_bits": PackedBits()}
    known |= codecs or {}
    position, arrays = header_size(data), {}
    try:
        content = json.loads(data[len(MARK) + 8 : position])
        if zlib.crc32(data[position:], zlib.crc32(json.dumps(content["arrays"]).encode())) != content["crc32"]:
            raise ArtifactError("damaged packed arrays: the check sum differs")
        for entry in content["arrays"]:
            stored = {}
            for key, kind, shape in entry["parts"]:
                dtype, count = np.dtype(kind), math.prod(shape)
                part = np.frombuffer(data, dtype, count, position).reshape(shape)
                stored[key] = part.astype(dtype.newbyteorder("="))
                position += part.nbytes
            if "header" not in entry:
                arrays[entry["name"]] = stored[""]
                continue
            codec = entry["header"]["codec"]
            if codec not in known:
                raise ArtifactError(
                    f"{entry['name']!r} is stored by the codec {codec!r}, which is not at hand; hand it in by codecs="
                )
            arrays[entry["name"]] = known[codec].decode(Parts(entry["header"], stored))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"damaged packed arrays ({error})") from error
    if position != len(data):
        raise ArtifactError(f"damaged packed arrays: {counted(len(data) - position, 'byte')} too many")
    return arrays
