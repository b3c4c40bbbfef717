"""One mutant on one network: is the cut refused, exposed by the silenced twin, or does it pass?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from flowprune.engine.planning import coupled_model
from flowprune.pruning import prune
from mutation.constants_subjects import ConstantsSubject
from mutation.subjects import Subject, difference

EQUAL = 1e-10
EXPOSED = 1e-8
"""A twin must be this far away to count as evidence; between the two nothing is known, and the mutant has survived."""


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        kind: the row of the table it is counted in.
        what: which tensor, attribute or rule, and how.
        fault: the engine is faulty while this context is open.
    """

    kind: str
    what: str
    fault: Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Verdict:
    """Who noticed a mutant.

    Attributes:
        network, kind, what: which mutant.
        caught: "certificate", "twin", "engine raises", "forward raises" (the cut model's), "same model" (bit for bit the right
            model: nothing to catch), "right model" (another cut, and equal to its own twin) or "survived".
        reason: the refusal, the error, or how far the twin is away.
        uncertified: what a refused cut would have been: "raises", "differs" from its twin, or "equals" it in evaluation mode; "" if
            nobody asked.
        untouched: whether the dense model is bit for bit and attribute for attribute what it was.
    """

    network: str
    kind: str
    what: str
    caught: str
    reason: str
    uncertified: str
    untouched: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _RefusedError(Exception):
    pass


def trial(subject: Subject | ConstantsSubject, mutant: Mutant, and_uncertified: bool = True) -> Verdict:
    """Plan and cut by the faulty engine, and look at what comes out; of what is refused, also what it would have been."""
    before = portrait(subject.model)
    caught, reason = _caught(subject, mutant, _stopping_at_a_refusal)
    uncertified = ""
    if caught == "certificate" and and_uncertified:
        outcome, _ = _caught(subject, mutant, _without_certificate)
        wrong = {"twin": "differs", "engine raises": "raises", "forward raises": "raises"}
        uncertified = wrong.get(outcome, "equals")
    untouched = same_portrait(before, portrait(subject.model))
    return Verdict(subject.name, mutant.kind, mutant.what, caught, reason, uncertified, untouched)


def _caught(
    subject: Subject | ConstantsSubject, mutant: Mutant, engine: Callable[[], AbstractContextManager[Any]]
) -> tuple[str, str]:
    with engine(), mutant.fault():
        try:
            made = subject.planned()
            small = prune(subject.model, made).eval()
        except _RefusedError as refusal:
            return "certificate", str(refusal)
        except Exception as error:  # whatever it is, it is loud
            return "engine raises", _in_one_line(error)
    try:
        outputs = subject.returned(small)
        training = subject.returned(small.train())
    except Exception as error:
        return "forward raises", _in_one_line(error)
    right = subject.plan
    if made.removed == right.removed and _identical(outputs + training, subject.outputs + subject.training_outputs):
        return "same model", ""
    gap = difference(outputs, subject.silenced(made))
    if gap > EXPOSED:
        return "twin", f"{gap:.2g} away"
    if gap < EQUAL and made.removed != right.removed:
        return "right model", f"{gap:.2g} away, {made.params[1]} parameters instead of {right.params[1]}"
    return "survived", f"{gap:.2g} away"


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _identical(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@contextmanager
def _stopping_at_a_refusal() -> Iterator[None]:
    """The engine would freeze what was refused and try again; the first refusal is what is asked about here."""
    certify = coupled_model.certify

    def watched(*args: Any, **kwargs: Any) -> None:
        refusal = certify(*args, **kwargs)
        if refusal is not None:
            raise _RefusedError(refusal.reason)

    with patch.object(coupled_model, "certify", watched):
        yield


@contextmanager
def _without_certificate() -> Iterator[None]:
    with patch.object(coupled_model, "certify", lambda *args, **kwargs: None):
        yield


Portrait = tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]


def portrait(model: nn.Module) -> Portrait:
    """The state dictionary, and every plain attribute of every module."""
    attributes = {
        path: {
            name: copy.copy(held)
            for name, held in vars(module).items()
            if isinstance(held, (bool, int, float, str, tuple, list, torch.Size))
        }
        for path, module in model.named_modules()
    }
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, attributes


def same_portrait(left: Portrait, right: Portrait) -> bool:
    """Bit for bit, attribute for attribute."""
    states = left[0].keys() == right[0].keys() and all(torch.equal(left[0][name], right[0][name]) for name in left[0])
    return states and left[1] == right[1]
