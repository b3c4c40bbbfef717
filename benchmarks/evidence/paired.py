"""A method beside plain training, seed by seed, as a row of a table and a verdict."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from evidence.verdict import NOT_RUN, verdict
from written_pages import header

COLUMNS = ("form", "MACs kept", "seeds", "top-1 %", "plain, cut best, top-1 %", "difference", "verdict")


@dataclass(frozen=True)
class Pairs:
    """Accuracies of fresh seeds.

    Attributes:
        form: of the flow, or what else is set beside plain training.
        kept: share of the MACs.
        ends: (its own, plain training's) of every seed that has both.
    """

    form: str
    kept: float
    ends: Sequence[tuple[float, float]]

    @property
    def differences(self) -> list[float]:
        """Of the paired seeds, in points; above 0 the form is better."""
        return [own - plain for own, plain in self.ends]

    @property
    def verdict(self) -> str:
        """By the one rule."""
        return verdict(self.differences)

    def row(self) -> str:
        """Of the table."""
        columns = ([own for own, _ in self.ends], [plain for _, plain in self.ends])
        figures = [spread(column) for column in columns] + [spread(self.differences, "+")]
        return f"| {self.form} | {self.kept:.0%} | {len(self.ends)} | {' | '.join(figures)} | {self.verdict} |"


def spread(numbers: Sequence[float], sign: str = "") -> str:
    """Mean ± deviation of the sample; "-" of none."""
    if not numbers:
        return "-"
    mean = f"{statistics.mean(numbers):{sign}.2f}"
    return mean if len(numbers) < 2 else f"{mean} ± {statistics.stdev(numbers):.2f}"


def paired_table(rows: Sequence[Pairs]) -> str:
    """One row a form and budget."""
    return "\n".join([*header(COLUMNS, 1), *(pairs.row() for pairs in rows)])


def said(rows: Sequence[Pairs]) -> str:
    """The verdicts of one form, in a clause: "pays at 60 % of the MACs, undecided at 40 %"."""
    if not rows or all(pairs.verdict == NOT_RUN for pairs in rows):
        return NOT_RUN
    return ", ".join(f"{pairs.verdict} at {100 * pairs.kept:.0f} % of the MACs" for pairs in rows)
