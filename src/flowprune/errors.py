"""Errors for people: every message says what was wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import takewhile
from typing import TypeVar

Given = TypeVar("Given")


class FlowpruneError(Exception):
    """Base of every error this package raises on purpose; the command line prints it as one line.

    Example:
        >>> import flowprune as fp
        >>> try:
        ...     fp.list_methods("importances")
        ... except fp.FlowpruneError as error:
        ...     print(str(error).partition(" known:")[0])
        unknown room of methods 'importances'; did you mean 'importance'?;
    """


class UnknownNameError(FlowpruneError):
    """A name (of a model, an importance, a recipe key, ...) that nothing is registered under.

    The message suggests the nearest known name, and tells all where none is near, or ``name_all`` asks for it.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str], *, name_all: bool = False) -> None:
        candidates = sorted(known)
        self.kind, self.name, self.nearest = kind, name, nearest_name(str(name), candidates)
        hints = [f"did you mean {self.nearest!r}?"] if self.nearest is not None else []
        if name_all or self.nearest is None:
            hints.append(f"known: {', '.join(candidates) or 'none'}")
        super().__init__(f"unknown {kind} {name!r}; {'; '.join(hints)}")


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, None where none is like it.

    Of names that are equally alike, the one that begins alike the longest; of these the one whose number is nearest:
    ``resnet21`` is a slip for ``resnet20``, not for ``resnet32``.
    """

    def likeness(candidate: str) -> tuple[float, int, float]:
        ratio = difflib.SequenceMatcher(None, candidate, name).ratio()
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(candidate, name, strict=False))
        return ratio, len(list(alike)), -abs(_number_in(candidate) - _number_in(name))

    near = difflib.get_close_matches(name, list(known), n=10, cutoff=0.5)
    return max(near, key=likeness, default=None)


def hint(name: str, known: Iterable[str]) -> str:
    """For the end of a message: the known name that was probably meant; empty where none is like it."""
    close = nearest_name(name, known)
    return "" if close is None else f"; did you mean {close!r}?"


def _number_in(name: str) -> float:
    return float("".join(character for character in name if character in "0123456789") or 0)


def checked_name(kind: str, name: Given, known: Iterable[str | None]) -> Given:
    """``name`` if it is among the ``known``; otherwise an ``UnknownNameError`` with the nearest one."""
    names = list(known)
    if name not in names:
        raise UnknownNameError(kind, name, map(str, names))
    return name


def counted(number: float, thing: str) -> str:
    """``1 image``, ``2 images``, ``0.5 points``: a number and what is counted, as messages say it."""
    shown = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{shown} {thing}{'s' * (number != 1)}"


def one_line(error: BaseException, most: int | None = None) -> str:
    """What an error says as one line, of at most so many characters; the name of its class where it says nothing."""
    return (" ".join(str(error).split()) or type(error).__name__)[:most]


class ModelError(FlowpruneError):
    """A model that cannot be built, loaded or worked on (NaN weights, a wrapper, weights that do not fit)."""


class TraceError(FlowpruneError):
    """A model whose forward pass could not be recorded."""


class BudgetError(FlowpruneError):
    """A budget that is malformed, or that no allowed cut reaches."""


class UnreachableBudgetError(BudgetError):
    """Less than the smallest model has that the constraints allow; ``smallest`` is its count, or its time in nanoseconds."""

    def __init__(self, message: str, smallest: int) -> None:
        super().__init__(message)
        self.smallest = smallest


class CertificateError(FlowpruneError):
    """A cut whose result could not be proved to be the planned one; nothing was touched."""


class RecipeError(FlowpruneError):
    """A recipe file that is missing, malformed or invalid."""


class DataError(FlowpruneError):
    """A data set that is missing, half there or unreadable."""


class ArtifactError(FlowpruneError):
    """An artifact that is missing, corrupt, foreign, or does not fit the model it is loaded into."""


class OutputError(FlowpruneError):
    """An output folder or file that must not be overwritten."""


class MissingLibraryError(FlowpruneError, ImportError):
    """An optional library that is not installed; also an ImportError, so that "try: import" works as usual."""


class FlowpruneWarning(UserWarning):
    """What goes on, but probably not as it was meant; the command line prints it as one line.

    Example:
        >>> import warnings, torch, flowprune as fp
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always", fp.FlowpruneWarning)
        ...     made = fp.plan(torch.nn.Linear(4, 2), torch.zeros(1, 4), threshold=0.01)
        >>> print(said[0].message)
        threshold=0.01 removes nothing: no filter that may leave is below it; train on, or raise the threshold
    """
