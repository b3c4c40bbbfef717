"""From labels to coupled groups: who leaves together, who may leave at all, and which groups must lose equally many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.coupling.balancing import match_rows, signatures
from flowprune.engine.coupling.dense_propagation import Analysis
from flowprune.engine.coupling.feature_maps import FeatureMaps, MapsOfGroup
from flowprune.engine.coupling.groups import CoupledGroup, Member
from flowprune.engine.coupling.labels import Array
from flowprune.engine.coupling.notes import Notes
from flowprune.engine.coupling.roles import Roles, roles_in
from flowprune.engine.coupling.shares import Shares, match_shares


@dataclass(frozen=True)
class Coupling:
    """The coupled groups of a model.

    Attributes:
        groups: the channels that may leave, by kind.
        channels: for each group, the component (its smallest label) of every channel.
        classes: groups that must lose channels in step, by index; a group without such a constraint is a class of its own.
        strides: for each group, how many of its channels leave in one step of its class.
        frozen: name of a weight -> why its channels stay.
        notes: what the rules said, and what grouping has found must stay, too.
        roots: [labels]: the component of every label; the notes' own.
        roles: what each parameter dimension is to the channels in it.
    """

    groups: tuple[CoupledGroup, ...]
    channels: tuple[Array, ...]
    classes: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...]
    frozen: dict[str, str]
    notes: Notes
    roots: Array
    roles: Roles


def group_channels(notes: Notes, passes: Sequence[Analysis]) -> Coupling:
    """Form the groups. The first of ``passes`` is the evaluation pass, whose feature maps are the groups'.

    Channels with the same signature form one group. The rows of balance constraints are matched group by group; where that asks
    for smaller groups, or for channels to stay, the groups are formed again.
    """
    roots = notes.roots
    evaluation = passes[0]
    roles: Roles = {}
    for analysis in passes:  # what runs in training only has roles too
        roles = roles_in(analysis.graph) | roles
    pieces: dict[int, int] = {}
    slot_labels = np.concatenate([slot.labels for slot in notes.slots])
    while True:
        frozen = np.zeros(notes.labels, dtype=bool)
        for freeze in notes.freezes:
            frozen[roots[freeze.labels]] = True
        frozen = frozen[roots]
        signature, balances = signatures(notes, roots, pieces)
        living = np.unique(roots[slot_labels[~frozen[slot_labels]]])
        order = _first_appearance(signature[living])
        group_of = np.full(notes.labels, -1, dtype=np.int64)
        group_of[living] = order
        count = int(order.max()) + 1 if len(order) else 0
        channels = [living[order == g] for g in range(count)]
        matching = match_rows(channels, balances)
        if not matching.pieces and not matching.unmatched:
            tied = Shares(matching.classes, (1,) * count)
            if notes.ties:
                tied = match_shares(notes.ties, roots, channels, matching.classes)
            if not tied.unmatched:
                break
            notes = notes.frozen(tied.unmatched)
        for root, piece in matching.pieces.items():
            pieces[root] = pieces.get(root, 0) * 31 + piece
        notes = notes.frozen(matching.unmatched)

    rank = np.full(notes.labels, -1, dtype=np.int64)
    for members in channels:
        rank[members] = np.arange(len(members))
    places = partial(_places, group_of, rank)
    found: dict[bytes, list[tuple[int, Array]]] = {}  # most dimensions carry what others carry
    collected: list[list[Member]] = [[] for _ in range(count)]
    for slot in notes.slots:
        components = roots[slot.labels]
        key = components.tobytes()
        if key not in found:
            found[key] = list(places(components))
        for group, indices in found[key]:
            role = roles.get((slot.name, slot.dimension), "other")
            collected[group].append(Member(slot.name, slot.dimension, role, indices))
    maps = FeatureMaps(evaluation, roots, places, count)
    names = _names(collected)
    groups = tuple(
        CoupledGroup(name, len(channels[g]), tuple(collected[g]), MapsOfGroup(maps, g)) for g, name in enumerate(names)
    )
    names_frozen = _frozen_names(notes, roots, frozen, roles)
    return Coupling(groups, tuple(channels), tied.classes, tied.strides, names_frozen, notes, roots, roles)


def _first_appearance(signature: NDArray[np.uint64]) -> Array:
    """Number the distinct signatures in the order in which they first appear."""
    _, first, inverse = np.unique(signature, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[inverse]


def _places(group_of: Array, rank: Array, roots: Array) -> Iterator[tuple[int, Array]]:
    """For each group in a dimension whose indices have these components: where each of its channels sits, [channels, k]."""
    groups = group_of[roots]
    inside = np.flatnonzero(groups >= 0)
    if not len(inside):
        return
    order = inside[np.lexsort((inside, rank[roots[inside]], groups[inside]))].astype(np.int64)
    sorted_groups, sorted_ranks = groups[order], rank[roots[order]]
    other_group = np.r_[True, sorted_groups[1:] != sorted_groups[:-1]]
    other_channel = other_group | np.r_[True, sorted_ranks[1:] != sorted_ranks[:-1]]
    starts = np.flatnonzero(other_group)
    channels = np.add.reduceat(other_channel, starts, dtype=np.int64).tolist()
    for group, count, start, stop in zip(
        sorted_groups[starts].tolist(), channels, starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True
    ):
        yield group, order[start:stop].reshape(count, -1)


def _names(collected: list[list[Member]]) -> list[str]:
    """The first layer that makes a group's channels, numbered where a layer's channels fall into several groups."""
    names: list[str] = []
    seen: dict[str, int] = {}
    for members in collected:
        makers = [member for member in members if member.role == "output"] or members
        name = makers[0].name.rpartition(".")[0] or makers[0].name
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _frozen_names(
    notes: Notes, roots: Array, frozen: NDArray[np.bool_], roles: dict[tuple[str, int], str]
) -> dict[str, str]:
    """Weights whose filters stay, wholly or in part, and why."""
    reason_of: dict[int, str] = {}
    for freeze in notes.freezes:
        for root in np.unique(roots[freeze.labels]).tolist():
            reason_of.setdefault(root, freeze.reason)
    names: dict[str, str] = {}
    for slot in notes.slots:
        role = roles.get((slot.name, slot.dimension), "other")
        # a weight that reaches its operator through others (a parametrisation) has no role of its own
        makes_channels = role == "output" and not slot.name.endswith("bias")
        if not makes_channels and (role != "other" or slot.dimension != 0):
            continue
        stays = frozen[slot.labels]
        if not stays.any():
            continue
        reason = reason_of[int(roots[slot.first + int(np.argmax(stays))])]
        part = "" if stays.all() else f"{int(stays.sum())} of {slot.size} filters: "
        names[slot.name] = part + reason
    return names
