"""The engine made wrong, one fault at a time: somebody notices, and the dense model is as it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from mutation.collection import mutants_of, subject_of
from mutation.subjects import Subject
from mutation.trial import Verdict, trial

ROOT = Path(__file__).resolve().parents[3]
NOTICED = {"certificate", "twin", "forward raises", "engine raises"}
SAMPLE = (
    "C2f of YOLOv8",
    "uneven split",
    "grouped convolution in a residual",
    "flatten and linear",
    "option-A shortcut",
    "pixel shuffle",
    "group norm",
    "mean and softmax over channels",
    "two towers, concatenation",
)
CONSTANTS_SAMPLE = (
    *("nothing between", "where", "a table", "marks", "a mask of floats", "a product of activations"),
    *("a number taken out", "a padded reader", "a grouped reader"),
)


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    """One mutant of every kind on each network of the sample, and every wrong rule."""
    subjects = [Subject(name) for name in SAMPLE]
    return [
        trial(subject, mutant, and_uncertified=False)
        for subject in subjects
        for mutant in mutants_of(subject, of_a_kind=1)
    ]


def test_no_mutant_survives(verdicts: list[Verdict]) -> None:
    assert not [verdict for verdict in verdicts if verdict.caught == "survived"]
    assert sum(verdict.caught in NOTICED for verdict in verdicts) >= 150
    assert Counter(verdict.caught for verdict in verdicts)["twin"] >= 30


@pytest.fixture(scope="module")
def constants_verdicts() -> list[Verdict]:
    """Every fault in the constants on each network of their sample."""
    subjects = [subject_of(f"constants: {name}") for name in CONSTANTS_SAMPLE]
    return [
        trial(subject, mutant, and_uncertified=False)
        for subject in subjects
        for mutant in mutants_of(subject, of_a_kind=1)
    ]


def test_no_fault_in_the_constants_survives(constants_verdicts: list[Verdict]) -> None:
    """Each kind is shown by some network to make a wrong model, and none makes one that nobody notices."""
    assert not [verdict for verdict in constants_verdicts if verdict.caught == "survived" or not verdict.untouched]
    noticed = {verdict.kind for verdict in constants_verdicts if verdict.caught in NOTICED}
    assert {verdict.kind for verdict in constants_verdicts} == noticed


def test_the_refused_leave_the_model_untouched(verdicts: list[Verdict]) -> None:
    assert all(verdict.untouched for verdict in verdicts)


def test_what_contradicts_the_plan_is_refused_before_anything_is_cut(verdicts: list[Verdict]) -> None:
    kinds = {
        "an index swapped, in the plan",
        "one channel more leaves a tensor",
        "one channel fewer leaves a tensor",
        "a tensor keeps its size",
        "an attribute that should have stayed",
        "an integer of the user's code not mended",
        "an integer of the user's code one too large",
        "the number of convolution groups wrong",
    }
    found = [verdict for verdict in verdicts if verdict.kind in kinds]
    assert len(found) > 40 and {verdict.caught for verdict in found} == {"certificate"}


def test_a_cut_unlike_the_certified_one_is_exposed(verdicts: list[Verdict]) -> None:
    found = [verdict for verdict in verdicts if verdict.kind.endswith("in the cut")]
    assert len(found) > 15 and {verdict.caught for verdict in found} <= {"twin", "forward raises", "engine raises"}
