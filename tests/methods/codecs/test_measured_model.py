"""``fp.measure`` of what masks, quantizers and codecs made: what is left of the products and weights, and what is stored."""

from __future__ import annotations

import torch
from torch import nn

import flowprune as fp
from flowprune.methods.codecs import Huffman, PackedBits

X = torch.zeros(1, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(16, 4)).eval()


def test_a_masked_model_counts_what_its_mask_keeps() -> None:
    model = network()
    sparse = fp.mask(model, X, mask="n_m", m=4)
    dense, found = fp.measure(model, X), fp.measure(sparse, X)
    assert (found.macs, found.params, found.bytes) == (dense.macs, dense.params, dense.bytes)
    biases = 16 + 16 + 4
    weights = [p for p in sparse.parameters() if p.ndim > 1]
    assert found.nonzero == biases + sum(int(p.count_nonzero()) for p in weights) < dense.nonzero
    kept = [int(p.count_nonzero()) / p.numel() for p in weights]
    macs = [row.macs for row in dense.layers]
    assert found.effective_macs == sum(round(m * share) for m, share in zip(macs, kept, strict=True))
    assert found.stored_bytes == found.bytes  # the mask is seen by its zeros


def test_a_quantized_model_counts_what_its_codec_stores() -> None:
    model = network()
    plain = fp.measure(model, X)
    assert plain.stored_bytes == plain.bytes == 4 * plain.params
    for codec in (Huffman(), PackedBits()):
        small = fp.quantize(model, X, codec=codec, values=4)
        found = fp.measure(small, X)
        weights = [p.detach().numpy() for p in small.parameters() if p.ndim > 1]
        coded = sum(-(-codec.bits(codec.encode(array)) // 8) for array in weights)
        assert found.bytes == plain.bytes and found.macs == plain.macs
        assert found.stored_bytes == coded + 4 * (16 + 16 + 4) < found.bytes / 4
