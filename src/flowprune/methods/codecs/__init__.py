"""How weights are stored: one format a file, each exact to the bit, with an exact count of what it takes."""

from flowprune.engine.interfaces import Codec, Parts
from flowprune.methods.codecs.channel_bits import ChannelBits
from flowprune.methods.codecs.container import pack, unpack
from flowprune.methods.codecs.huffman import Huffman
from flowprune.methods.codecs.measured_model import measure
from flowprune.methods.codecs.packed_bits import PackedBits
from flowprune.methods.codecs.registry import REGISTRY
from flowprune.methods.codecs.sparse_huffman import SparseHuffman

__all__ = [
    "REGISTRY",
    "ChannelBits",
    "Codec",
    "Huffman",
    "PackedBits",
    "Parts",
    "SparseHuffman",
    "measure",
    "pack",
    "unpack",
]
