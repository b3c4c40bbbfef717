"""Balance constraints: rows that must stay equally long, and which groups must therefore lose equally many channels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.coupling.labels import Array, classes_of
from flowprune.engine.coupling.notes import Freeze, Notes

_SIGNATURE_SEED = 20210604
UNMATCHED = "rows that must stay equally long cannot be matched with one another"


@dataclass(frozen=True)
class Balance:
    """A constraint that is not met by itself: [rows, n] components, and one random number a row."""

    rows: Array
    numbers: NDArray[np.uint64]


@dataclass
class Matching:
    """What the balance constraints ask for.

    Attributes:
        classes: groups that must lose equally many, by index.
        pieces: component -> a number; components of one group with different numbers must become different groups.
        unmatched: channels that must stay.
    """

    classes: tuple[tuple[int, ...], ...] = ()
    pieces: dict[int, int] = field(default_factory=dict)
    unmatched: list[Freeze] = field(default_factory=list)


def signatures(notes: Notes, roots: Array, pieces: dict[int, int]) -> tuple[NDArray[np.uint64], list[Balance]]:
    """A 64-bit signature of every component: how often it occurs in which parameter dimension and in which row of which balance
    constraint, and in which piece of its group it is."""
    random = np.random.default_rng(_SIGNATURE_SEED)
    signature = np.zeros(notes.labels, dtype=np.uint64)

    def numbers(size: int) -> NDArray[np.uint64]:
        return random.integers(0, np.iinfo(np.uint64).max, size=size, dtype=np.uint64, endpoint=True)

    for slot, number in zip(notes.slots, numbers(len(notes.slots)), strict=True):
        np.add.at(signature, roots[slot.labels], number)
    seen: set[bytes] = set()
    balances: list[Balance] = []
    for labels in notes.balances:
        members = _binding(roots[labels])
        if members is None:
            continue
        ordered = np.sort(members, axis=1)
        key = ordered.tobytes() + str(ordered.shape).encode()
        if key in seen:
            continue  # both modes' passes say the same
        seen.add(key)
        number = numbers(len(members))
        for row, value in zip(members, number, strict=True):
            np.add.at(signature, row, value)
        balances.append(Balance(members, number))
    with np.errstate(over="ignore"):
        for root, piece in pieces.items():
            signature[root] += np.uint64(piece * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    return signature, balances


def _binding(members: Array) -> Array | None:
    """The rows that must stay equally long, [rows, n], of a constraint [..., n]; None if there is nothing to keep.

    A row of one single component (an attention head that leaves as a whole) is there or not: then its length does not matter, and
    the constraint is about how many such rows there are in the axis above.
    """
    while members.ndim > 1:
        rows = members.reshape(-1, members.shape[-1])
        if not (rows == rows[:, :1]).all():
            return _distinct(rows)
        members = members[..., 0]
    return None


def _distinct(rows: Array) -> Array | None:
    """The rows that hold different channels; None if all hold the same. What is in every row equally often leaves all of them."""
    ordered = np.sort(rows, axis=1)
    _, first = np.unique(ordered, axis=0, return_index=True)
    return None if len(first) == 1 else rows[np.sort(first)]


def match_rows(channels: list[Array], balances: list[Balance]) -> Matching:
    """Pair up the groups in the rows of every constraint.

    Groups of one size in different rows are paired in order. Where the sizes differ, the groups are cut into pieces at each
    other's ends, and the caller groups again with these pieces apart. What one row has more than another stays.
    """
    partners: list[tuple[int, int]] = []
    owner = {root: g for g, members in enumerate(channels) for root in members.tolist()} if balances else {}
    result = Matching()

    for number, balance in enumerate(balances):
        in_rows = [np.unique(row) for row in balance.rows]
        present, counts = np.unique(np.concatenate(in_rows), return_counts=True)
        several = [root for root in present[counts > 1].tolist() if root in owner]
        if several:
            result.unmatched.append(Freeze(np.array(several, dtype=np.int64), UNMATCHED))
            continue
        found = [_groups_in(row, owner) for row in balance.rows]
        lines = [[g for g, _ in line] for line in found]
        shortest = min(sum(len(channels[g]) for g in line) for line in lines)
        sizes = [[(len(channels[g]), times) for g, times in line] for line in found]
        if all(line == sizes[0] for line in sizes):
            partners += [(first, other) for first, *others in zip(*lines, strict=True) for other in others]
            continue
        if any(times != 1 for line in sizes for _, times in line):
            result.unmatched.append(Freeze(np.unique(balance.rows), UNMATCHED))
            continue
        ends = {0, shortest}
        for line in lines:
            ends |= {int(end) for end in np.cumsum([len(channels[g]) for g in line]) if end < shortest}
        cuts = sorted(ends)
        for line in lines:
            ordered = np.concatenate([channels[g] for g in line] or [np.empty(0, dtype=np.int64)])
            if len(ordered) > shortest:
                result.unmatched.append(Freeze(ordered[shortest:], UNMATCHED))
            place = np.searchsorted(cuts, np.arange(min(len(ordered), shortest)), side="right")
            for root, piece in zip(ordered[:shortest].tolist(), place.tolist(), strict=True):
                result.pieces[root] = (number + 1) * 1_000_003 + piece
        return result  # one constraint at a time: the pieces change the others' rows
    result.classes = tuple(tuple(groups) for groups in classes_of(len(channels), partners))
    result.unmatched += [
        Freeze(np.concatenate([channels[g] for g in groups]), UNMATCHED)
        for groups in result.classes
        if len({len(channels[g]) for g in groups}) > 1
    ]
    return result


def _groups_in(row: Array, owner: dict[int, int]) -> list[tuple[int, int]]:
    """The groups with channels in a row, and how often each of their channels occurs there; the largest first, then in order."""
    times: dict[int, int] = {}
    for root in row.tolist():
        times[root] = times.get(root, 0) + 1
    size: dict[int, int] = {}
    often: dict[int, int] = {}
    for root, count in times.items():
        if root in owner:
            size[owner[root]] = size.get(owner[root], 0) + 1
            often[owner[root]] = count
    return [(g, often[g]) for g in sorted(size, key=lambda g: -size[g])]
