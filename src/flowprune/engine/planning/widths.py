"""Which channels of the dense model are left after some cuts, so that shares and caps keep meaning shares of the dense model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from flowprune.engine.allocation import Plan, share_of_classes
from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.planning import CoupledModel
from flowprune.engine.planning.request import LARGEST_CUT, Request

_NOTHING = 1e-12
"""A share so small that no channel leaves under it."""


class Widths:
    """The dense model's coupled groups, and which of their channels the small model's still are."""

    def __init__(self, model: nn.Module, inputs: Any, request: Request) -> None:
        self._request = request
        heads = "whole" if request.heads == "both" else request.heads  # all other widths are the same either way
        coupling = CoupledModel.of(model, inputs, request.ignore, request.freeze, heads).coupling
        caps = share_of_classes(request.largest_cut, coupling, LARGEST_CUT, "largest_cut")
        share = request.budget.share if request.budget.kind == "channels" else None
        kept = share_of_classes(share, coupling, 1.0, "channels") if share is not None else np.ones(len(caps))
        self._group_of: dict[tuple[str, int, int], int] = {}
        self._sizes = [group.channels for group in coupling.groups]
        self._least, self._share = [0] * len(self._sizes), [1.0] * len(self._sizes)
        for number, groups in enumerate(coupling.classes):
            for group in groups:
                self._least[group] = self._sizes[group] - int(self._sizes[group] * caps[number] + 1e-9)
                self._share[group] = float(kept[number])
        for origin, made in enumerate(coupling.groups):
            for member in made.members:
                for index in member.indices.reshape(-1).tolist():
                    self._group_of[member.name, member.dimension, index] = origin
        self._staying: dict[tuple[str, int], np.ndarray] = {}

    def follow(self, made: Plan) -> None:
        """Note what a step has taken."""
        for name, dimensions in made.removed.items():
            for dimension, indices in dimensions.items():
                before = self._staying.get((name, dimension))
                size = made.shapes[name][dimension]
                self._staying[name, dimension] = np.delete(np.arange(size) if before is None else before, list(indices))

    def request(self, progress: float, dense: int, target: int, milliseconds: float | None = None) -> Request:
        """What is asked of the small model, so that what is kept falls by the same factor on every part of the way.

        Args:
            progress: up to this share of the way.
            dense, target: the count of the dense model and that at the end; for a budget of MACs, parameters or time.
            milliseconds: what a budget of time comes to. MACs lead there, and only the last step is timed.
        """

        def cap(group: CoupledGroup) -> float:
            return max(_NOTHING, (group.channels - self._least[self._origin(group)]) / group.channels)

        def share(group: CoupledGroup) -> float:
            origin = self._origin(group)
            wanted = int(self._sizes[origin] * self._share[origin] ** progress + 1e-9)
            return min(1.0, max(_NOTHING, wanted / group.channels))

        asked, count = self._request.budget, max(1, target, int(dense * (target / dense) ** progress))
        by_channels = asked.kind == "channels"
        budget = replace(asked, share=share) if by_channels else replace(asked, share=None, absolute=count)
        if milliseconds is not None:
            last = progress == 1
            budget = replace(
                budget, kind=asked.kind if last else "macs", absolute=round(milliseconds * 1e6) if last else count
            )
        return replace(self._request, budget=budget, largest_cut=cap)

    def _origin(self, group: CoupledGroup) -> int:
        """The dense model's group that a group of the small model is left of. Names would not do: they are counted through, and
        groups that turn out to stay are counted no more."""
        member = group.members[0]
        index, staying = int(member.indices[0, 0]), self._staying.get((member.name, member.dimension))
        return self._group_of[member.name, member.dimension, int(staying[index]) if staying is not None else index]
