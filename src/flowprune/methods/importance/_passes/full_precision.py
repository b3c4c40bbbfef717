"""float32 as float32: scores decide between neighbours in a ranking, which short mantissas would do by rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """TensorFloat-32, bfloat16 in the place of float32 and autocast off inside; all is given back after."""
    backends: Any = torch.backends  # their attributes are made at run time
    places = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    # not torch.get_float32_matmul_precision: it refuses to answer where the newer settings were used
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision
