"""Ties between counts: which groups lose the same share, in which steps; and integers traced back to an attribute."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from flowprune.engine.coupling.notes import Tie
from flowprune.engine.coupling.shares import match_shares
from flowprune.engine.tracing.expressions import Attribute, Expression, evaluate, solved_for_first


def tie(left: object, right: object) -> Tie:
    return Tie(np.asarray(left), np.asarray(right), "somewhere")


def test_a_stream_loses_as_many_channels_a_step_as_a_head_is_wide() -> None:
    roots = np.arange(15)  # a stream of 12 channels, 3 heads
    shares = match_shares([tie(range(12), [12, 13, 14])], roots, [np.arange(12), np.arange(12, 15)], ((0,), (1,)))
    assert shares.classes == ((0, 1),) and shares.strides == (4, 1) and not shares.unmatched


def test_ties_reach_through_the_classes_of_both_sides() -> None:
    channels = [np.arange(0, 6), np.arange(6, 12), np.arange(12, 16), np.arange(16, 20)]
    shares = match_shares([tie(range(6), range(12, 16))], np.arange(20), channels, ((0, 1), (2,), (3,)))
    assert sorted(map(sorted, shares.classes)) == [[0, 1, 2], [3]]
    assert shares.strides == (3, 3, 2, 1)


@pytest.mark.parametrize("frozen", [[12, 13, 14], [14]])
def test_a_side_that_cannot_keep_up_holds_the_other(frozen: list[int]) -> None:
    heads = np.array([head for head in (12, 13, 14) if head not in frozen], dtype=np.int64)
    channels = [np.arange(12), *([heads] if len(heads) else [])]
    shares = match_shares(
        [tie(range(12), [12, 13, 14])], np.arange(15), channels, tuple((g,) for g in range(len(channels)))
    )
    staying = {label for freeze in shares.unmatched for label in freeze.labels.tolist()}
    assert staying == set(range(12)) | set(heads.tolist())


def test_sizes_without_a_common_divisor_stay() -> None:
    shares = match_shares([tie(range(5), range(5, 8))], np.arange(8), [np.arange(5), np.arange(5, 8)], ((0,), (1,)))
    assert "no common divisor" in shares.unmatched[0].reason


def test_the_same_channels_twice_over_are_no_tie() -> None:
    shares = match_shares([tie([0, 1, 2], [2, 2, 1, 1, 0, 0])], np.arange(3), [np.arange(3)], ((0,),))
    assert shares.strides == (1,) and not shares.unmatched


WIDTH: Expression = ("attribute", "block", "width", None)
HEADS: Expression = ("attribute", "block", "heads", None)
VALUES = {Attribute("block", "width"): 24, Attribute("block", "heads"): 4}


@pytest.mark.parametrize(
    ("expression", "name", "times"),
    [
        (WIDTH, "width", Fraction(1)),
        (("//", WIDTH, ("number", 2)), "width", Fraction(2)),
        (("//", WIDTH, HEADS), "width", Fraction(4)),
        (("*", ("number", 3), WIDTH), "width", Fraction(1, 3)),
        (("*", HEADS, ("//", WIDTH, ("number", 4))), "heads", Fraction(1, 6)),
    ],
)
def test_an_attribute_behind_an_integer_is_found_with_its_factor(
    expression: Expression, name: str, times: Fraction
) -> None:
    solved = solved_for_first(expression, VALUES.__getitem__)
    assert solved == (Attribute("block", name), times)
    assert evaluate(expression, VALUES.__getitem__) * times == VALUES[Attribute("block", name)]


@pytest.mark.parametrize("expression", [("number", 7), ("+", WIDTH, ("number", 1)), ("*", ("size", 3, 1), WIDTH)])
def test_sums_and_sizes_are_not_solved(expression: Expression) -> None:
    assert solved_for_first(expression, VALUES.__getitem__) is None
