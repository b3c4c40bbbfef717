"""Attention over any number of dimensions for ONNX's exporter, which knows it over four."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class SpelledOutBeyondFourDimensions(TorchFunctionMode):
    """Inside, scaled dot-product attention whose windows or blocks have a dimension of their own is products and a softmax.

    ``[images, windows, heads, tokens, width]``, as timm's NesT and Twins have it, or ``[images, tokens, width]``.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See ``TorchFunctionMode``."""
        given = kwargs or {}
        attends = function is functional.scaled_dot_product_attention and bool(args) and args[0].dim() != 4
        return attention(*args, **given) if attends and not given.get("enable_gqa") else function(*args, **given)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What ``torch.nn.functional.scaled_dot_product_attention`` says it computes, for heads that all have keys of their own."""
    scores = query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if boolean else scores + attn_mask
    return functional.dropout(scores.softmax(-1), dropout_p) @ value
