"""A slice is numpy's slice, however large the tensor is and however it lies in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flowprune.engine.surgery.cut import slice_tensor


@pytest.mark.parametrize("shape", [(30, 20), (1200, 1100), (150, 200, 6, 7)])
@pytest.mark.parametrize("dimensions", [(0,), (1,), (0, 1), (1, 0)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_slices_are_numpys(
    shape: tuple[int, ...], dimensions: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    if memory_format is torch.channels_last and len(shape) != 4:
        shape = (*shape, 2, 2)
    torch.manual_seed(0)
    tensor = torch.randn(shape).to(memory_format=memory_format)
    removed = {d: tuple(torch.randperm(shape[d])[: shape[d] // 3].sort().values.tolist()) for d in dimensions}
    expected = tensor.numpy()
    for dimension, indices in removed.items():
        expected = np.delete(expected, indices, axis=dimension)
    result = slice_tensor(tensor, removed, None)
    assert np.array_equal(result.numpy(), expected)
    assert result.is_contiguous(memory_format=memory_format)
    assert result.data_ptr() != tensor.data_ptr()
