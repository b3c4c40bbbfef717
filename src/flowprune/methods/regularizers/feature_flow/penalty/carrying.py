"""Share the work of neighbouring points in the backward pass: what the penalty pulls at a feature is a difference, too.

With s, t the signs of a link's two differences and g, c their coefficients, the pull at the feature of point l telescopes::

    U_l = g_l s_l + c_l t_l - c_{l+1} t_{l+1},        pull at Y_l = U_l - U_{l+1}

so the hook of a point makes only the signs of the link that arrives there, and takes U and t over from the point behind it. They
are two maps in the feature's shape, held from one point to the next and overwritten in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprune.methods.regularizers.feature_flow.maps.links import Link
from flowprune.methods.regularizers.feature_flow.maps.magnitude import accumulated
from flowprune.methods.regularizers.feature_flow.penalty.fused_passes import pass_on
from flowprune.methods.regularizers.feature_flow.penalty.pieces import piece_elements, pieces
from flowprune.methods.regularizers.feature_flow.penalty.pulls import (
    Images,
    WeighedLink,
    add_crossing_pulls,
    add_plain_pulls,
)


@dataclass
class Carry:
    """What one point hands to the one before it.

    Attributes:
        point: the one that hands on.
        pull: ``U``, scaled, in the feature's shape.
        signs: ``t``; None where there is no curvature.
    """

    point: int
    pull: Tensor
    signs: Tensor | None


def add_pulls(
    images: Images,
    point: int,
    links: Mapping[int, WeighedLink],
    scale: float,
    carry: Carry | None,
    compiled: bool = False,
) -> Carry | None:
    """Add ``scale`` times the penalty's gradient with respect to the feature at ``point`` to ``images.into``, in place.

    Args:
        images: all of them; the gradient is in memory of its own.
        point: its number.
        links: those that enter, by the point they arrive at.
        scale: what the penalty is multiplied by, the same in one backward pass.
        carry: what the point served last handed on; overwritten.
        compiled: whether the passes over a link are fused.

    Returns:
        What this point hands on.
    """
    own, ahead = images.features[point], links.get(point + 1)
    assert own is not None
    follows = ahead is not None and ahead.link.plain
    known = carry if carry is not None and carry.point == point + 1 else None
    link = links.get(point)
    exact = accumulated(own).dtype == own.dtype == images.into.dtype
    if exact and link is not None and link.link.plain and (known is not None or not follows):
        first = known is None or not follows
        if known is None or not follows:
            known = Carry(point, torch.empty_like(own), None)
        if known.signs is None and link.link.second is not None and link.curvature:
            known.signs = torch.empty_like(own) if first else torch.zeros_like(own)
        bend = 0.0 if first or ahead is None or ahead.link.second is None else scale * ahead.curvature
        for some, part in _cut(images, point, links, known):
            assert part is not None
            _pass_on(some, link, part, bend, scale, first, compiled)
            add_crossing_pulls(some, point, links, scale)
        known.point = point
        return known
    last = known if exact and follows else None
    for some, part in _cut(images, point, links, last):
        if part is not None:
            # The last of a row: nothing new arrives here, what was handed on is all.
            _finish(some.into, part, ahead, scale)
        else:
            add_plain_pulls(some, point, links, scale)
        add_crossing_pulls(some, point, links, scale)
    return None


def _cut(
    all_images: Images, point: int, links: Mapping[int, WeighedLink], carry: Carry | None
) -> Iterator[tuple[Images, Carry | None]]:
    """Some images at a time where a link crosses a change of shape: their gradient is in the cache then for both kinds of links."""
    into, features, codes = all_images.into, all_images.features, all_images.codes
    own = features[point]
    assert own is not None
    used = [index for index in range(point, point + 3) if index in links and index in codes]
    if not any(_leads_through_maps(links[index].link, point) for index in used):
        yield all_images, carry
        return
    images = own.shape[0]
    many = max(1, piece_elements(own.device) * images // max(1, own.numel()))
    near = range(max(0, point - 2), min(len(features), point + 3))
    for begin in range(0, images, many):
        some = slice(begin, begin + many)
        here: list[Tensor | None] = [None] * len(features)
        for index in near:
            feature = features[index]
            here[index] = None if feature is None else feature[some]
        part = carry and Carry(carry.point, carry.pull[some], None if carry.signs is None else carry.signs[some])
        yield Images(into[some], here, {index: codes[index][some] for index in used}), part


def _leads_through_maps(link: Link, point: int) -> bool:
    return bool({0: (), 1: link.first, 2: link.second}[link.index - point])


def _finish(into: Tensor, carry: Carry, ahead: WeighedLink | None, scale: float) -> None:
    into.sub_(carry.pull)
    if carry.signs is not None and ahead is not None and ahead.link.second is not None:
        into.add_(carry.signs, alpha=-scale * ahead.curvature)


def _pass_on(
    some: Images, link: WeighedLink, carry: Carry, ahead: float, scale: float, first: bool, compiled: bool
) -> None:
    index = link.link.index
    bends = bool(link.curvature) and link.link.second is not None
    read = [some.features[index - back] for back in range(3 if bends else 2)]
    tensors = [some.into, carry.pull, *([] if carry.signs is None else [carry.signs])]
    count = len(tensors)
    for piece in pieces([*tensors, *(feature for feature in read if feature is not None)], compiled):
        gradient, pull = piece[0], piece[1]
        signs = piece[2] if count == 3 else None
        feature, near = piece[count], piece[count + 1]
        if compiled:
            factors = pull.new_tensor([scale * link.gradient, ahead, scale * link.curvature])
            far = piece[count + 2] if bends else None
            pass_on(gradient, pull, signs, feature, near, far, factors, first, bool(ahead))
            continue
        if not first:
            gradient.sub_(pull)
        torch.sub(feature, near, out=pull).sign_().mul_(scale * link.gradient)
        if signs is not None:
            if ahead:
                pull.add_(signs, alpha=-ahead)
            if bends:
                torch.sub(feature, near, alpha=2, out=signs).add_(piece[count + 2]).sign_()
                pull.add_(signs, alpha=scale * link.curvature)
            else:
                signs.zero_()
        gradient.add_(pull)
