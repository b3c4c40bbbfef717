"""Shares that differ from layer to layer: a mapping of names or patterns, read for every class of coupled groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from flowprune.engine.coupling import CoupledGroup, Coupling
from flowprune.errors import BudgetError, hint

Shares = float | Mapping[str, float] | Callable[[CoupledGroup], float]
"""One share for every layer; pattern -> share, where the first pattern that matches counts; or a function of a group."""


def checked_shares(shares: Shares, option: str) -> Shares:
    """The shares, as floats.

    Raises:
        BudgetError: one is not a number above 0 and at most 1, or there is none.
    """
    if callable(shares):
        return shares
    if not isinstance(shares, Mapping):
        return _checked(shares, f"{option}={shares!r}")
    if not shares:
        raise BudgetError(f'{option}={{}} names no layer; write it like {option}={{"layer1.*": 0.5}}')
    for pattern, share in shares.items():
        if not isinstance(pattern, str):
            raise BudgetError(f"{option}: {pattern!r} is not a name or pattern of layers")
        _checked(share, f"{option}={{{pattern!r}: {share!r}}}")
    return {pattern: float(share) for pattern, share in shares.items()}


def _checked(share: object, shown: str) -> float:
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise BudgetError(f"{shown} is not a share: use a number above 0 and at most 1")
    return float(share)


def share_of_classes(shares: Shares, coupling: Coupling, otherwise: float, option: str) -> NDArray[np.float64]:
    """[classes]: the share of every class of groups.

    Args:
        shares: one for all, pattern -> share, or a function of a class's first group. A pattern means a layer, a parameter, a
            module around them or a coupled group, by its dotted name; a class has the share of its first group that is named
            itself, else of the first pattern that means any of the layers that make its channels.
        coupling: the groups.
        otherwise: the share of a class that no pattern means.
        option: what the user calls the shares.

    Raises:
        BudgetError: for a pattern that means nothing in this model.
    """
    if callable(shares):
        return np.array([shares(coupling.groups[groups[0]]) for groups in coupling.classes], dtype=np.float64)
    if not isinstance(shares, Mapping):
        return np.full(len(coupling.classes), float(shares))
    tensors = dict.fromkeys(slot.name for slot in coupling.notes.slots)
    known = {path for name in tensors for path in _around(name)} | {group.name for group in coupling.groups}
    for pattern in shares:
        if not any(_means(pattern, name) for name in known):
            raise BudgetError(f"{option}: {pattern!r} matches no layer of the model{hint(pattern, known)}")
    found = np.full(len(coupling.classes), otherwise)
    for number, groups in enumerate(coupling.classes):
        names = {coupling.groups[group].name for group in groups}
        for group in groups:
            made = [member.name for member in coupling.groups[group].members if member.role == "output"]
            names |= {path for name in made for path in _around(name)}
        own = [shares[coupling.groups[group].name] for group in groups if coupling.groups[group].name in shares]
        meant = (share for pattern, share in shares.items() if any(_means(pattern, name) for name in names))
        found[number] = own[0] if own else next(meant, otherwise)
    return found


def share_of_layer(shares: Shares, layer: str) -> float:
    """The share of a layer, by its own name: that of the first pattern that means it or a module around it, 1 if none does."""
    if callable(shares):
        raise TypeError("a function gives shares to groups, not to layers")
    if not isinstance(shares, Mapping):
        return float(shares)
    meant = (share for pattern, share in shares.items() if covers(pattern, layer))
    return next(meant, 1.0)


def covers(pattern: str | None, name: str) -> bool:
    """Whether a pattern means a tensor or module: by itself, or by a module around it; None means nothing."""
    return pattern is not None and any(_means(pattern, path) for path in _around(name))


def _around(name: str) -> list[str]:
    """A tensor's name and the paths of all modules around it."""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _means(pattern: str, name: str) -> bool:
    return pattern == name or fnmatchcase(name, pattern)
