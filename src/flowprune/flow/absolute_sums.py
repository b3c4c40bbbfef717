"""The forward half of the penalty with ``norm=1``: sum |d| and sum |c| of every link, without a difference ever being stored whole.

Features of one shape are read once, piece by piece, for all their differences together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowprune.flow.links import Link, carried_by
from flowprune.flow.magnitude import accumulated
from flowprune.flow.pieces import image_pieces, pieces
from flowprune.flow.sign_codes import encoded


class Sums:
    """Sums of absolute values by term ("gradient", "curvature") and link, gathered in parts."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._weights: dict[str, list[float]] = {"gradient": [], "curvature": []}

    def add(self, term: str, weight: float, part: Tensor) -> None:
        """Take in one 0-dim part and what it counts."""
        for name, weights in self._weights.items():
            weights.append(weight if name == term else 0.0)
        self._parts.append(part)

    def totals(self) -> dict[str, Tensor]:
        """Term -> weighted sum, 0-dim; summed in float64 where the device has it."""
        parts = torch.stack(self._parts)
        precise = torch.float32 if parts.device.type == "mps" else torch.float64
        return {
            name: parts.to(precise).dot(torch.tensor(weights, dtype=precise, device=parts.device)).to(parts.dtype)
            for name, weights in self._weights.items()
        }


def absolute_sums(
    features: Sequence[Tensor | None],
    links: Sequence[Link],
    weights: Sequence[float],
    wanted: Sequence[str],
    codes: dict[int, Tensor] | None = None,
) -> dict[str, Tensor]:
    """``sum_l w_l sum |d_l|`` and ``sum_l w_l sum |c_l|``, as far as wanted; 0 for the other.

    Args:
        features: of one forward, by point, [N, C, ...] each.
        links: those that enter.
        weights: one for each link.
        wanted: of "gradient" and "curvature".
        codes: receives the signs of the links that cross a change of shape, by the point they arrive at.
    """
    sums = Sums()
    weight = {link.index: each for link, each in zip(links, weights, strict=True)}
    for run in _runs(links):
        start = run[0].index - (2 if run[0].second is not None else 1)
        present = [feature for feature in features[start : run[-1].index + 1] if feature is not None]
        signs: dict[int, list[Tensor]] | None = None if codes is None or run[0].plain else {}
        for piece in pieces(present) if run[0].plain else image_pieces(present):
            _add(sums, run, weight, wanted, piece, start, signs)
        for index, parts in (signs or {}).items():
            assert codes is not None
            codes[index] = torch.cat(parts)
    return sums.totals()


def _runs(links: Sequence[Link]) -> list[list[Link]]:
    """Neighbouring links together that share features: those whose features all have one shape, those that cross a change of it."""
    runs: list[list[Link]] = []
    for link in links:
        last = runs[-1][-1] if runs else None
        joins = last is not None and link.index == last.index + 1 and link.second is not None
        if joins and last is not None and last.plain == link.plain:
            runs[-1].append(link)
        else:
            runs.append([link])
    return runs


def _add(
    sums: Sums,
    run: Sequence[Link],
    weight: dict[int, float],
    wanted: Sequence[str],
    piece: Sequence[Tensor],
    start: int,
    signs: dict[int, list[Tensor]] | None,
) -> None:
    ready = [accumulated(part) for part in piece]
    scratch: Tensor | None = None
    before: tuple[int, Tensor] | None = None  # P_{l-1} Y_{l-1} of the link before, and its point
    for link in run:
        feature = ready[link.index - start]
        near = carried_by(link.first, ready[link.index - start - 1])
        first = second = None
        if scratch is None or scratch.shape != feature.shape:
            scratch = torch.empty_like(feature)
        if "gradient" in wanted:
            first = torch.sub(feature, near, out=None if signs is not None else scratch)
            sums.add("gradient", weight[link.index], (first.abs() if signs is not None else first.abs_()).sum())
        if "curvature" in wanted and link.second is not None:
            if before is not None and before[0] == link.index - 2:
                far = carried_by(link.first, before[1])
            else:
                far = carried_by(link.second, ready[link.index - start - 2])
            second = torch.sub(feature, near, alpha=2, out=None if signs is not None else scratch).add_(far)
            sums.add("curvature", weight[link.index], (second.abs() if signs is not None else second.abs_()).sum())
        if signs is not None:
            signs.setdefault(link.index, []).append(encoded(first, second, feature))
        before = (link.index - 1, near)
