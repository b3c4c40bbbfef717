"""Storage formats: bit for bit, counted exactly, as the authors count, and damage is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fixtures import fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from flowprune.engine.interfaces import Codec, Parts
from flowprune.errors import ArtifactError, FlowpruneError
from flowprune.methods.codecs import REGISTRY, Huffman, PackedBits, SparseHuffman, pack, unpack
from flowprune.methods.codecs._canonical.canonical_code import CanonicalCode
from flowprune.methods.codecs._canonical.code_lengths import code_lengths
from flowprune.methods.codecs.container import header_size

CODECS = [
    Huffman(), Huffman(word=8, table_bits=0), Huffman(word=64, table_bits=3),
    SparseHuffman(), SparseHuffman(word=16, table_bits=0), PackedBits(), PackedBits(whole_bytes=True),
]  # fmt: skip


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def quantized(*shape: int, values: int = 30, zeros: float = 0.7, seed: int = 0) -> np.ndarray:
    numbers = np.random.default_rng(seed)
    chosen = numbers.normal(size=values)[np.minimum(numbers.geometric(0.2, shape), values) - 1]
    return (chosen * (numbers.random(shape) > zeros)).astype(np.float32)


@pytest.mark.parametrize("storage", ["sHAM-storage-1", "sHAM-storage-2", "sHAM-storage-4"])
def test_sizes_tables_and_streams_are_those_of_the_authors(storage: str):
    case = fixture(storage)
    matrix, expected = np.array(case["inputs"]["matrix"], np.float32), case["outputs"]
    codec = Huffman()
    parts = codec.encode(matrix)
    ham = expected["HAM"]
    assert codec.bits(parts, table=False) == round(ham["psi_bits_per_entry"] * matrix.size)
    assert codec.bits(parts, table=False) / matrix.size == pytest.approx(ham["psi_bits_per_entry"], abs=1e-12)
    assert parts.header["stream_bits"] == ham["total_code_bits"] == expected["ham_std_huffman"]["total_bits"]
    assert parts.arrays["first_symbol"].tolist() == ham["first_symbol"][:-1]
    assert parts.arrays["first_code"].tolist() == ham["first_code_l"]
    for name, size in {"symbols": "symbols", "first_symbol": "first_symbol", "first_code": "first_code"}.items():
        assert 8 * parts.arrays[name].nbytes == ham["code_space_bits"][size]
    if np.array_equal(parts.arrays["symbols"], np.array(ham["symbols"], np.float32)):  # the same order among ties
        assert parts.arrays["stream"].tolist() == ham["packed_words"]
    else:
        assert sorted(parts.arrays["symbols"]) == sorted(np.array(ham["symbols"], np.float32))

    sparse, sham = SparseHuffman(), expected["sHAM"]
    parts = sparse.encode(matrix)
    assert sparse.bits(parts, table=False) / matrix.size == pytest.approx(sham["psi_bits_per_entry"], abs=1e-12)
    assert parts.header["stream_bits"] == sham["total_code_bits"]
    assert parts.arrays["rows"].tolist() == sham["row_index"]
    assert parts.arrays["column_counts"].tolist() == np.diff(sham["col_ptr"]).tolist()
    base = sum(8 * parts.arrays[name].nbytes for name in ("stream", "rows", "column_counts"))
    assert base == sham["base_bits"]

    index_map = PackedBits(whole_bytes=True)
    assert index_map.bits(index_map.encode(matrix)) / matrix.size == pytest.approx(expected["IM_psi"], abs=1e-12)
    for one in (codec, sparse, index_map):
        assert same_bits(one.decode(one.encode(matrix)), matrix)


def test_the_decoding_table_is_counted_as_the_authors_count_it():
    codec = Huffman(table_bits=3)
    parts = codec.encode(quantized(20, 30))
    assert codec.bits(parts) == codec.bits(parts, table=False) + 8 * 2**3
    without = Huffman(table_bits=0)
    parts = without.encode(quantized(20, 30))
    assert without.bits(parts) == without.bits(parts, table=False)


TYPES = st.sampled_from(["<f2", "<f4", ">f4", "<f8", "|i1", "|u1", "<i4", "<u8", "|b1"])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(CODECS))
def test_every_array_comes_back_bit_for_bit_and_takes_what_is_counted(data: st.DataObject, codec: Codec):
    dtype = np.dtype(data.draw(TYPES))
    shape = data.draw(arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    few = data.draw(arrays_of.arrays(dtype, data.draw(st.integers(1, 12))))
    chosen = data.draw(arrays_of.arrays(np.int64, shape, elements=st.integers(0, len(few) - 1)))
    array = np.asarray(few[chosen])
    parts = codec.encode(array)
    assert same_bits(codec.decode(parts), array)
    assert sum(part.nbytes for part in parts.arrays.values()) == -(-codec.bits(parts) // 8)
    packed = pack({"array": array, "plain": np.arange(3.0)}, {"array": codec})
    assert len(packed) == header_size(packed) + -(-codec.bits(parts) // 8) + 24
    assert same_bits(unpack(packed)["array"], array)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
def test_minus_zero_infinities_and_every_nan_are_kept(codec: Codec):
    patterns = np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7FC00001, 0x7F800001, 1], np.uint32)
    array = np.tile(patterns.view(np.float32), (5, 3))
    assert same_bits(codec.decode(codec.encode(array)), array)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
def test_long_streams_cross_the_blocks_they_are_read_in(codec: Codec):
    array = quantized(64, 32, 3, 3, values=200, zeros=0.3)
    assert same_bits(codec.decode(codec.encode(array)), array)
    skewed = np.repeat(np.arange(20), np.array([2**power for power in range(20)]) // 8 + 1)
    skewed = np.random.default_rng(0).permutation(skewed).astype(np.int32).reshape(1, -1)
    assert same_bits(codec.decode(codec.encode(skewed)), skewed)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=60))
def test_code_words_are_free_of_prefixes_and_within_a_bit_of_the_entropy(counts: list[int]):
    counts = sorted(counts, reverse=True)
    code = CanonicalCode.of(code_lengths(counts))
    lengths = code.lengths.tolist()
    assert sum(2.0**-length for length in lengths) == 1 and lengths == sorted(lengths)
    total = sum(counts)
    entropy = -sum(count * math.log2(count / total) for count in counts)
    assert (
        entropy - 1e-6 <= sum(length * count for length, count in zip(lengths, counts, strict=True)) < entropy + total
    )
    words = [
        format(int(word) >> (code.longest - length), f"0{length}b")
        for word, length in zip(code.words, lengths, strict=False)
    ]
    assert all(not other.startswith(word) for word in words for other in words if other is not word)


def test_a_word_too_long_for_a_window_is_refused_before_it_is_written():
    counts = [1, 1]
    while len(counts) < 60:
        counts.append(sum(counts[-2:]))
    with pytest.raises(FlowpruneError, match="at most 57"):
        code_lengths(counts[::-1])


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
def test_damage_anywhere_is_refused_in_one_line(codec: Codec):
    parts = codec.encode(quantized(12, 10))
    for name, part in parts.arrays.items():
        if part.size:
            damaged = part.copy()
            damaged.view(np.uint8)[0] ^= 1
            with pytest.raises(ArtifactError, match="damaged"):
                codec.decode(Parts(parts.header, {**parts.arrays, name: damaged}))
        with pytest.raises(ArtifactError, match="damaged"):
            codec.decode(Parts(parts.header, {key: value for key, value in parts.arrays.items() if key != name}))
    with pytest.raises(ArtifactError, match="damaged"):
        codec.decode(Parts({**parts.header, "shape": [10, 12]}, parts.arrays))
    with pytest.raises(ArtifactError, match="cannot be decoded"):
        codec.decode(Parts({**parts.header, "codec": "morse"}, parts.arrays))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255), st.integers(0, 10**6))
def test_bytes_with_one_wrong_or_cut_off_are_never_read_as_something_else(place: int, flip: int, end: int):
    data = pack({"weight": quantized(9, 8), "bias": np.arange(4.0)}, {"weight": SparseHuffman()})
    damaged = bytearray(data)
    damaged[place % len(data)] ^= flip
    for wrong in (bytes(damaged), data[: end % len(data)], data + b"more"):
        with pytest.raises(ArtifactError):
            unpack(wrong)


def test_a_whole_network_is_header_and_bits_and_plain_tensors():
    weights = {
        "conv.weight": quantized(16, 8, 3, 3),
        "fc.weight": quantized(10, 64, zeros=0.95),
        "fc.bias": quantized(10),
    }
    codecs = {"conv.weight": Huffman(), "fc.weight": SparseHuffman()}
    data = pack(weights, codecs)
    counted = sum(codecs[name].bits(codecs[name].encode(weights[name])) for name in codecs)
    assert len(data) == header_size(data) + counted // 8 + weights["fc.bias"].nbytes
    assert all(same_bits(array, weights[name]) for name, array in unpack(data).items())
    assert list(unpack(data)) == list(weights)


def test_others_codecs_are_handed_in_and_never_looked_up():
    class Reversed(PackedBits):
        def encode(self, array):
            parts = super().encode(array[::-1])
            return Parts({"codec": "reversed", "inner": parts.header}, parts.arrays)

        def decode(self, parts):
            return super().decode(Parts(parts.header["inner"], parts.arrays))[::-1]

        def bits(self, parts, table=True):
            return super().bits(Parts(parts.header["inner"], parts.arrays))

    data = pack({"weight": np.arange(5.0)}, {"weight": Reversed()})
    with pytest.raises(ArtifactError, match="'reversed', which is not at hand"):
        unpack(data)
    assert unpack(data, {"reversed": Reversed()})["weight"].tolist() == [0, 1, 2, 3, 4]


def test_what_cannot_be_stored_is_said_in_one_line():
    for codec in CODECS:
        with pytest.raises(FlowpruneError, match="array of complex128 cannot be encoded"):
            codec.encode(np.zeros(3, complex))
    with pytest.raises(FlowpruneError, match="word=12"):
        Huffman(word=12)
    with pytest.raises(FlowpruneError, match="table_bits=40"):
        SparseHuffman(table_bits=40)
    with pytest.raises(FlowpruneError, match="'wieght', which is no array"):
        pack({"weight": np.zeros(3)}, {"wieght": Huffman()})
    with pytest.raises(FlowpruneError, match="'names' holds"):
        pack({"names": np.array([object()])}, {})


def test_the_three_are_known_by_name():
    assert {"huffman", "packed_bits", "sparse_huffman"} <= set(REGISTRY)
    assert all(isinstance(REGISTRY[name](), Codec) for name in ("huffman", "packed_bits", "sparse_huffman"))
