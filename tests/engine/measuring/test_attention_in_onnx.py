"""Attention over more or fewer than four dimensions: the same numbers, and exported, which ONNX's exporter cannot do by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import flowprune as fp
from flowprune.engine.measuring.attention_in_onnx import attention

BOOLEAN = torch.rand(5, 5, generator=torch.Generator().manual_seed(0)) < 0.7
BOOLEAN.fill_diagonal_(True)


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": 0.3}, {"is_causal": True}, {"attn_mask": BOOLEAN}, {"attn_mask": torch.randn(2, 5, 5)}],
    ids=["plain", "scaled", "causal", "boolean mask", "mask of heads"],
)
def test_it_computes_what_torch_computes(options: dict[str, Any]) -> None:
    three = torch.randn(3, 2, 3, 2, 5, 4)  # query, key and value of [images, windows, heads, tokens, width]
    torch.testing.assert_close(attention(*three, **options), functional.scaled_dot_product_attention(*three, **options))


class Windows(nn.Module):
    """Attention inside windows, which have a dimension of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.three = nn.Linear(8, 24)
        self.bias = nn.Parameter(torch.randn(2, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        images, windows, tokens, _ = x.shape
        query, key, value = self.three(x).view(images, windows, tokens, 3, 2, 4).permute(3, 0, 1, 4, 2, 5)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=self.bias)
        return found.transpose(2, 3).reshape(images, windows, tokens, 8)


def test_attention_inside_windows_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = fp.export(Windows().eval(), torch.randn(2, 3, 5, 8), tmp_path / "windows.onnx")
    assert done.dynamic_batch and done.largest_difference < 1e-5
