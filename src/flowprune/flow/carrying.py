"""Share the work of neighbouring points in the backward pass: what the penalty pulls at a feature is a difference, too.

With s, t the signs of a link's two differences and g, c their coefficients, the pull at the feature of point l telescopes::

    U_l = g_l s_l + c_l t_l - c_{l+1} t_{l+1},        pull at Y_l = U_l - U_{l+1}

so the hook of a point makes only the signs of the link that arrives there, and takes U and t over from the point behind it. They
are two maps in the feature's shape, held from one point to the next and overwritten in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprune.flow.magnitude import accumulated
from flowprune.flow.pieces import pieces
from flowprune.flow.pulls import WeighedLink, add_crossing_pulls, add_plain_pulls


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
    into: Tensor,
    point: int,
    features: Sequence[Tensor | None],
    links: Mapping[int, WeighedLink],
    codes: Mapping[int, Tensor],
    scale: float,
    carry: Carry | None,
) -> Carry | None:
    """Add ``scale`` times the penalty's gradient with respect to the feature at ``point`` to ``into``, in place.

    Args:
        into: the gradient so far, in the feature's shape, in memory of its own.
        point: its number.
        features: of the forward, by point.
        links: those that enter, by the point they arrive at.
        codes: the signs of the links that cross a change of shape.
        scale: what the penalty is multiplied by, the same in one backward pass.
        carry: what the point served last handed on; overwritten.

    Returns:
        What this point hands on.
    """
    add_crossing_pulls(into, point, features, links, codes, scale)
    own, ahead = features[point], links.get(point + 1)
    assert own is not None
    follows = ahead is not None and ahead.link.plain
    known = carry if carry is not None and carry.point == point + 1 else None
    link = links.get(point)
    exact = accumulated(own).dtype == own.dtype == into.dtype
    if not exact or (follows and known is None) or link is None or not link.link.plain:
        if known is not None and exact and follows:
            # The last of a row: nothing new arrives here, what was handed on is all.
            _finish(into, known, ahead, scale)
        else:
            add_plain_pulls(into, point, features, links, codes, scale)
        return None
    first = known is None or not follows
    if known is None or not follows:
        known = Carry(point, torch.empty_like(own), None)
    if known.signs is None and link.link.second is not None and link.curvature:
        known.signs = torch.empty_like(own) if first else torch.zeros_like(own)
    bend = 0.0 if first or ahead is None or ahead.link.second is None else scale * ahead.curvature
    _pass_on(into, link, features, known, bend, scale, first)
    known.point = point
    return known


def _finish(into: Tensor, carry: Carry, ahead: WeighedLink | None, scale: float) -> None:
    into.sub_(carry.pull)
    if carry.signs is not None and ahead is not None and ahead.link.second is not None:
        into.add_(carry.signs, alpha=-scale * ahead.curvature)


def _pass_on(
    into: Tensor,
    link: WeighedLink,
    features: Sequence[Tensor | None],
    carry: Carry,
    ahead: float,
    scale: float,
    first: bool,
) -> None:
    index = link.link.index
    bends = bool(link.curvature) and link.link.second is not None
    read = [features[index - back] for back in range(3 if bends else 2)]
    tensors = [into, carry.pull, *([] if carry.signs is None else [carry.signs])]
    count = len(tensors)
    for piece in pieces([*tensors, *(feature for feature in read if feature is not None)]):
        gradient, pull = piece[0], piece[1]
        signs = piece[2] if count == 3 else None
        feature, near = piece[count], piece[count + 1]
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
