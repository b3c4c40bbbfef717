"""The forward half of the penalty with ``norm=1``: sum |d| and sum |c| of every link, without a difference ever being stored whole.

Features of one shape are read once, piece by piece, for all their differences together. The two differences of a link lie one
behind the other, so that one call takes both absolute values, sums or signs: in the cache a call costs as much as its work.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from flowprune.methods.regularizers.feature_flow.maps.links import Link, carried_by
from flowprune.methods.regularizers.feature_flow.maps.magnitude import accumulated
from flowprune.methods.regularizers.feature_flow.maps.transposition import selected
from flowprune.methods.regularizers.feature_flow.penalty.fused_passes import sizes
from flowprune.methods.regularizers.feature_flow.penalty.pieces import image_pieces, pieces
from flowprune.methods.regularizers.feature_flow.penalty.sign_codes import encode


class Sums:
    """Sums of absolute values by term ("gradient", "curvature") and link, gathered in parts."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._weights: dict[str, list[float]] = {"gradient": [], "curvature": []}

    def add(self, terms: Sequence[str], weight: float, parts: Tensor) -> None:
        """Take in one part of each of these terms, [terms], and what they count."""
        for name, weights in self._weights.items():
            weights.extend(weight if name == term else 0.0 for term in terms)
        self._parts.append(parts)

    def totals(self) -> dict[str, Tensor]:
        """Term -> weighted sum, 0-dim; summed in float64 where the device has it."""
        parts = torch.cat(self._parts)
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
    compiled: bool = False,
) -> dict[str, Tensor]:
    """``sum_l w_l sum |d_l|`` and ``sum_l w_l sum |c_l|``, as far as wanted; 0 for the other.

    Args:
        features: of one forward, by point, [N, C, ...] each.
        links: those that enter.
        weights: one for each link.
        wanted: of "gradient" and "curvature".
        codes: receives the signs of the links that cross a change of shape, by the point they arrive at.
        compiled: whether the passes over a link are fused.
    """
    sums = Sums()
    weight = {link.index: each for link, each in zip(links, weights, strict=True)}
    for run in _runs(links):
        start = run[0].index - (2 if run[0].second is not None else 1)
        present = [feature for feature in features[start : run[-1].index + 1] if feature is not None]
        plain, across = [link for link in run if link.plain], [link for link in run if not link.plain]
        room = _Room(len(wanted))
        if not across:
            for piece in pieces(present, compiled):
                _add(sums, run, weight, wanted, piece, start, room, [], compiled)
            continue
        kept = []
        if codes is not None:
            kept = [torch.empty_like(present[link.index - start], dtype=torch.int8) for link in across]
            codes.update((link.index, code) for link, code in zip(across, kept, strict=True))
        for some in image_pieces([*kept, *present]):
            here = some[len(kept) :]
            # These bring the features into the cache, where picking out positions is quick.
            for piece in pieces(here[: plain[-1].index - start + 1]) if plain else ():
                _add(sums, plain, weight, wanted, piece, start, room, [], compiled)
            _add(sums, across, weight, wanted, here, start, room, some[: len(kept)])
    return sums.totals()


def _runs(links: Sequence[Link]) -> list[list[Link]]:
    """Neighbouring links together that share features: those within one shape, then those that cross a change of it."""
    runs: list[list[Link]] = []
    for link in links:
        last = runs[-1][-1] if runs else None
        joins = last is not None and link.index == last.index + 1 and link.second is not None
        if joins and last is not None and (last.plain or not link.plain):
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
    room: _Room,
    codes: Sequence[Tensor],
    compiled: bool = False,
) -> None:
    ready = [accumulated(part) for part in piece]
    before: tuple[int, Tensor] | None = None  # P_{l-1} Y_{l-1} of the link before, and its point
    for place, link in enumerate(run):
        feature = ready[link.index - start]
        near = room.mapped(link, 1, ready[link.index - start - 1], feature)
        terms = [term for term in wanted if term == "gradient" or link.second is not None]
        if compiled and terms:  # within one shape: the three are the features themselves
            far = ready[link.index - start - 2] if "curvature" in terms else None
            sums.add(terms, weight[link.index], sizes(feature, near, far, "gradient" in terms))
            continue
        flat, rows = room.differences(feature, len(terms))
        if "gradient" in terms:
            torch.sub(feature, near, out=rows[0])
        if "curvature" in terms:
            if before is not None and before[0] == link.index - 2:
                far = carried_by(link.first, before[1])
            else:
                far = room.mapped(link, 2, ready[link.index - start - 2], feature)
            torch.sub(feature, near, alpha=2, out=rows[-1]).add_(far)
        if terms:
            absolute = torch.abs(flat, out=room.like(flat)) if codes else flat.abs_()
            sums.add(terms, weight[link.index], absolute.sum(1))
        if codes:
            flat.sign_()
            signs = dict(zip(terms, rows, strict=True))
            encode(codes[place], signs.get("gradient"), signs.get("curvature"))
        before = (link.index - 1, near)


class _Room:
    """Memory that the pieces of one run use one after the other, so that it stays in the cache."""

    def __init__(self, terms: int) -> None:
        self._terms = terms
        self._buffers: dict[Hashable, Tensor] = {}

    def differences(self, feature: Tensor, count: int) -> tuple[Tensor, list[Tensor]]:
        """Room for ``count`` differences, one behind the other: as rows, and each in the shape and order of the feature."""
        flat = self._buffer("differences", self._terms * feature.numel(), feature)
        flat = flat[: count * feature.numel()].view(count, feature.numel())
        if feature.is_contiguous():
            return flat, [row.view(feature.shape) for row in flat]
        order = torch.empty_like(feature, device="meta").stride()
        return flat, [row.as_strided(feature.shape, order, row.storage_offset()) for row in flat]

    def like(self, flat: Tensor) -> Tensor:
        """Room for as much again."""
        return self._buffer("again", self._terms * flat.shape[1], flat)[: flat.numel()].view(flat.shape)

    def mapped(self, link: Link, back: int, feature: Tensor, target: Tensor) -> Tensor:
        """The feature ``back`` points before the link's after its maps, in the shape of ``target``."""
        maps = link.first if back == 1 else link.second
        assert maps is not None
        chosen = selected(maps, feature) if maps else None
        if chosen is None:
            return carried_by(maps, feature)
        found = self._buffers.get((link.index, back))
        if found is None or found.shape[0] < target.shape[0]:
            found = self._buffers[link.index, back] = torch.zeros_like(target)
        found = found[: target.shape[0]]
        chosen.within(found).copy_(chosen.tensor)
        return found

    def _buffer(self, name: str, elements: int, like: Tensor) -> Tensor:
        found = self._buffers.get(name)
        if found is None or found.numel() < elements:
            found = self._buffers[name] = like.new_empty(elements)
        return found
