"""The backward half of the penalty with ``norm=1``: what it pulls at one feature, added into that feature's gradient.

The feature at point l is the end of the link l, the middle of the link l + 1 and the beginning of the link l + 2::

    d/dY_l = g_l s_l + c_l t_l  -  P_l^T (g_{l+1} s_{l+1} + 2 c_{l+1} t_{l+1})  +  P_l^T P_{l+1}^T c_{l+2} t_{l+2}

with s, t the signs of the first and second differences (0 at 0) and g, c the coefficients of these links. The signs are made again
from the features, which autograd holds anyway, a piece at a time; only where a link crosses a change of shape they were kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprune.methods.regularizers.feature_flow.maps.links import Link, Map
from flowprune.methods.regularizers.feature_flow.maps.magnitude import accumulated
from flowprune.methods.regularizers.feature_flow.maps.transposition import add_transposed, selected
from flowprune.methods.regularizers.feature_flow.penalty.pieces import image_pieces, pieces
from flowprune.methods.regularizers.feature_flow.penalty.sign_codes import decoded


@dataclass(frozen=True)
class WeighedLink:
    """A link with what one element of |d| and of |c| counts in the penalty."""

    link: Link
    gradient: float
    curvature: float


@dataclass
class Images:
    """Some images, or all, of what the pull at one point is made of.

    Attributes:
        into: the gradient so far, in the feature's shape.
        features: of the forward, by point.
        codes: the signs of the links that cross a change of shape.
    """

    into: Tensor
    features: Sequence[Tensor | None]
    codes: Mapping[int, Tensor]


@dataclass(frozen=True)
class _Part:
    """What one link pulls at a feature: ``on_d`` times s plus ``on_c`` times t, back through ``maps``."""

    link: Link
    on_d: float
    on_c: float
    maps: tuple[Map, ...]


def add_plain_pulls(some: Images, point: int, links: Mapping[int, WeighedLink], scale: float) -> None:
    """Add what the links within one shape pull at the feature; for the arguments see ``carrying.add_pulls``."""
    plain = [part for part in _parts(point, links, scale) if part.link.index not in some.codes]
    if plain:
        used = sorted({index for part in plain for index in _read(part)})
        tensors = [feature for feature in (some.features[index] for index in used) if feature is not None]
        for piece in pieces([some.into, *tensors]):
            _add_piece(piece[0], plain, dict(zip(used, piece[1:], strict=True)))


def add_crossing_pulls(some: Images, point: int, links: Mapping[int, WeighedLink], scale: float) -> None:
    """Add what the links across a change of shape pull at the feature; for the arguments see ``carrying.add_pulls``."""
    own, into, codes = some.features[point], some.into, some.codes
    assert own is not None
    across: dict[tuple[Map, ...], list[_Part]] = {}
    for part in _parts(point, links, scale):
        if part.link.index in codes:
            across.setdefault(part.maps, []).append(part)
    for maps, same in across.items():
        signs = [codes[part.link.index] for part in same]
        chosen = selected(maps, into)
        if chosen is not None:
            signs = [chosen.within(code) for code in signs]
            cut = image_pieces if maps else pieces
            for gradient, *part_of in cut([chosen.tensor, *signs]):
                gradient.add_(_decoded(part_of, same, accumulated(own[:0]).dtype))
        else:
            for gradient, feature, *part_of in image_pieces([into, own, *signs]):
                ready = accumulated(feature)
                add_transposed(maps, ready, _decoded(part_of, same, ready.dtype), gradient)


def _decoded(signs: Sequence[Tensor], parts: Sequence[_Part], dtype: torch.dtype) -> Tensor:
    pull = decoded(signs[0], parts[0].on_d, parts[0].on_c, dtype)
    for code, part in zip(signs[1:], parts[1:], strict=True):
        pull.add_(decoded(code, part.on_d, part.on_c, dtype))
    return pull


def touched(point: int, links: Mapping[int, WeighedLink]) -> bool:
    """Whether the penalty pulls at the feature of this point at all."""
    return bool(_parts(point, links, 1.0))


def _parts(point: int, links: Mapping[int, WeighedLink], scale: float) -> list[_Part]:
    found = []
    end, middle, beginning = links.get(point), links.get(point + 1), links.get(point + 2)
    if end is not None:
        bend = end.curvature if end.link.second is not None else 0.0
        found.append(_Part(end.link, scale * end.gradient, scale * bend, ()))
    if middle is not None:
        bend = middle.curvature if middle.link.second is not None else 0.0
        found.append(_Part(middle.link, -scale * middle.gradient, -2 * scale * bend, middle.link.first))
    if beginning is not None and beginning.link.second is not None:
        found.append(_Part(beginning.link, 0.0, scale * beginning.curvature, beginning.link.second))
    return [part for part in found if part.on_d or part.on_c]


def _read(part: _Part) -> list[int]:
    return [part.link.index - back for back in range(3 if part.on_c else 2)]


def _add_piece(into: Tensor, parts: Sequence[_Part], features: Mapping[int, Tensor]) -> None:
    ready = {index: accumulated(feature) for index, feature in features.items()}
    scratch = torch.empty_like(ready[parts[0].link.index])
    direct = into.dtype == scratch.dtype
    total = into if direct else torch.zeros_like(into, dtype=scratch.dtype)
    for part in parts:
        index = part.link.index
        feature, near = ready[index], ready[index - 1]
        if part.on_d:
            total.add_(torch.sub(feature, near, out=scratch).sign_(), alpha=part.on_d)
        if part.on_c:
            torch.sub(feature, near, alpha=2, out=scratch).add_(ready[index - 2])
            total.add_(scratch.sign_(), alpha=part.on_c)
    if not direct:
        into.add_(total)
