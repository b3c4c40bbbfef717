"""Cut features into pieces that stay in the processor's cache while a difference is made, sized and forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

ELEMENTS = 262144
"""How many elements a piece has for each thread on the CPU: 1 MiB of float32.
Smaller pieces pay for more calls: a call costs about what it computes on 16384 elements that are in the cache."""

_ELEMENTS_ELSEWHERE = 1 << 24
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def piece_elements(device: torch.device) -> int:
    """How many elements a piece has. An accelerator has no cache worth it; there it only bounds the memory."""
    return ELEMENTS * torch.get_num_threads() if device.type == "cpu" else _ELEMENTS_ELSEWHERE


def pieces(tensors: Sequence[Tensor], whole: bool = False) -> Iterator[Sequence[Tensor]]:
    """Pieces of tensors of one shape, element by element the same ones of each; their order does not matter to the caller.

    Dense tensors in one memory layout are cut anywhere and come flat, others come as some images. One fused loop needs
    no cache, and takes dense ones ``whole``.
    """
    first = tensors[0]
    most = piece_elements(first.device)
    if first.numel() == 0:
        return
    if _alike(tensors):
        flat = [tensor.as_strided((tensor.numel(),), (1,)) for tensor in tensors]
        if whole or first.numel() <= most:
            yield flat
        else:
            yield from zip(*(tensor.split(most) for tensor in flat), strict=True)
    else:
        yield from image_pieces(tensors)


def image_pieces(tensors: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Pieces of some images each, as large as the last tensor asks for; the tensors agree in their number of images only."""
    last = tensors[-1]
    if last.numel():
        count = max(1, piece_elements(last.device) * last.shape[0] // last.numel())
        yield from zip(*(tensor.split(count) for tensor in tensors), strict=True)


def _alike(tensors: Sequence[Tensor]) -> bool:
    if all(tensor.is_contiguous() for tensor in tensors):
        return True
    layout = _FORMATS.get(tensors[0].dim())
    return layout is not None and all(tensor.is_contiguous(memory_format=layout) for tensor in tensors)
