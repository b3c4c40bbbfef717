"""SSC-style structured sparse convolution: a few spatial kernels in a period, pointwise ones or none between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import torch

from flowprune.errors import FlowpruneError
from flowprune.methods.masks.fixed_pattern import FixedPattern
from flowprune.methods.masks.registry import REGISTRY

Spatial = Literal["alternating", "whole"]
Others = Literal["centre", "none"]


@REGISTRY.register("ssc")
class SSC(FixedPattern):
    """Kernel (f, c) is spatial where (c + shift f) mod g is 0 or g / 2; the others are their centre tap alone, or nothing.

    SSC-style, after Verma et al., Structured Sparse Convolutions, WACV 2023, arXiv 2210.12818, which generalises depthwise,
    groupwise and pointwise convolutions: its text and code could not be had, so the rule is ours. The spatial kernels are the two
    halves of a chessboard by turns: of 3x3 the five taps of the corners and the centre at 0, the four others at g / 2. Of a long
    layer (9 + g - 2) / (9 g) stays with ``others="centre"``: 20.8 % for g = 8. With ``spatial="whole"`` and ``others="none"`` it is
    a convolution of g groups, whose channels are numbered by turns, and with g = C = F one kernel a filter. Kernels without centre
    (an even size) and 1x1 stay whole; with ``others="none"`` so do layers of fewer than g channels a filter (grouped and depthwise
    ones), where filters would read nothing.

    Args:
        group: g, an even number of at least 2.
        shift: by how many channels the pattern moves from one filter to the next.
        spatial: "alternating" as above, or "whole": the whole kernel at 0 alone.
        others: what the kernels between them are.
        first_dense: the first convolution stays whole.

    Raises:
        FlowpruneError: an option is none of these.

    Example:
        >>> weight = torch.empty(1, 4, 3, 3)
        >>> SSC(group=4, first_dense=False).select({"weight": weight})["weight"].sum((2, 3)).tolist()
        [[5, 1, 4, 1]]
    """

    def __init__(
        self,
        *,
        group: int = 8,
        shift: int = 1,
        spatial: Spatial = "alternating",
        others: Others = "centre",
        first_dense: bool = True,
    ) -> None:
        super().__init__(first_dense=first_dense)
        if isinstance(group, bool) or not isinstance(group, int) or group < 2 or group % 2:
            raise FlowpruneError(f"group={group!r} is not a period: use an even number of at least 2")
        if isinstance(shift, bool) or not isinstance(shift, int):
            raise FlowpruneError(f"shift={shift!r} is not a number of channels: use a whole number")
        if spatial not in ("alternating", "whole"):
            raise FlowpruneError(f'spatial={spatial!r} is not known; use "alternating" or "whole"')
        if others not in ("centre", "none"):
            raise FlowpruneError(f'others={others!r} is not known; use "centre" or "none"')
        self.group, self.shift = group, shift
        self.spatial: Spatial = spatial
        self.others: Others = others

    def table(self, kernel: tuple[int, ...]) -> torch.Tensor | None:
        """The spatial kernels at 0 and g / 2, the others between them; None where there is no centre, or nothing beside it."""
        if any(size % 2 == 0 for size in kernel) or all(size == 1 for size in kernel):
            return None
        places = torch.stack(torch.meshgrid(*[torch.arange(size) for size in kernel], indexing="ij")).sum(0)
        table = torch.zeros(self.group, *kernel, dtype=torch.bool)
        if self.others == "centre":
            table.flatten(1)[:, math.prod(kernel) // 2] = (
                True  # all sizes are odd, so the one in the middle is the centre
            )
        if self.spatial == "whole":
            table[0] = True
        else:
            table[0], table[self.group // 2] = places % 2 == 0, places % 2 == 1
        return table

    def index(self, filters: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
        """(c + shift f) mod g."""
        return (channels + self.shift * filters) % self.group

    def settings(self) -> Iterator[FixedPattern]:
        """g from 2 to 64, the others as centres or none."""
        kinds: tuple[Others, ...] = ("centre", "none")
        for others in kinds:
            for group in range(2, 65, 2):
                yield SSC(group=group, shift=self.shift, spatial=self.spatial, others=others)

    def _tables(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
        tables = super()._tables(shapes)
        if self.others == "centre":
            return tables
        return {name: table for name, table in tables.items() if shapes[name][1] >= self.group}

    def __str__(self) -> str:
        return f'ssc with group={self.group}, spatial="{self.spatial}", others="{self.others}"'
