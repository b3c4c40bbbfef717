"""Write the tables of docs/transfer.md anew from results/transfer/*.json.

    python benchmarks/pages.py transfer [--check]

What has not been run stands there as "not run yet". ``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from evidence.cells import Known, Result
from evidence.results import open_line, results_of
from evidence.verdict import NOT_RUN
from transfer.run import EPOCHS, ROWS, SEEDS, SETTING, Row, cells
from written_pages import header, written

BEGIN, END = "<!-- transfer:begin -->", "<!-- transfer:end -->"
DEAD = ("0.01", "0.1")
"""Thresholds: what is dead everywhere else, and nearly dead."""
SOME = 1.0
"""Per cent of the filters: where fewer are dead at every length, a strength does nothing that could transfer."""
TWICE = 2.0
"""The largest share over the smallest one, up to which it counts as the same."""


def share(result: Result, threshold: str) -> float:
    """Dead filters in per cent."""
    return 100.0 * result["dead_by_threshold"][threshold] / result["filters"]


def ratio(shares: list[float]) -> float | None:
    """The largest over the smallest; None where too little is dead at every length to tell."""
    if max(shares) < SOME:
        return None
    return max(shares) / min(shares) if min(shares) > 0 else float("inf")


def of_row(row: Row, known: Known) -> list[list[Result]]:
    """For every length the results of the seeds that are there."""
    return [[known[one.name] for seed in SEEDS if (one := row.cell(epochs, seed)).name in known] for epochs in EPOCHS]


def ratios(known: Known, threshold: str) -> dict[Row, float | None]:
    """Of the strengths that have run at all lengths; shares are means over seeds."""
    found = {row: of_row(row, known) for row in ROWS if row.unit}
    return {
        row: ratio([mean(share(result, threshold) for result in results) for results in lengths])
        for row, lengths in found.items()
        if all(lengths)
    }


def decision(known: Known, threshold: str) -> str:
    """Which unit is adopted, in a sentence; by the rule that the page states."""
    found = ratios(known, threshold)
    named = f"By what is below {threshold}:"
    if len(found) < len([row for row in ROWS if row.unit]):
        return f"{named} {NOT_RUN} ({len(found)} of {len(ROWS) - 1} strengths have run at all lengths)."
    acting = {row: value for row, value in found.items() if value is not None}
    best = min(acting, key=lambda row: acting[row] or 0.0, default=None)
    if best is None:
        return f"{named} none is adopted; at no strength {SOME:g} % of the filters died at any length."
    least = acting[best] or 0.0
    said = f"{best.strength}, whose largest share of dead filters is {least:.2f} times its smallest"
    return (
        f"{named} {best.unit} is adopted ({said})."
        if least <= TWICE
        else f"{named} none is adopted; nearest is {said}."
    )


def table(known: Known) -> str:
    """One row a strength; under each length accuracy, what is dead, and the coefficient."""
    lengths = [
        text for epochs in EPOCHS for text in (f"{epochs} epochs: top-1 %", *(f"dead ({t}) %" for t in DEAD), "k1")
    ]
    lines = header(("unit", "strength", *lengths, *(f"largest : smallest ({t})" for t in DEAD)), 2)
    by_threshold = [ratios(known, threshold) for threshold in DEAD]
    for row in ROWS:
        figures: list[str] = []
        for results in of_row(row, known):
            if not results:
                figures += [NOT_RUN, *["-"] * (len(DEAD) + 1)]
                continue
            figures.append(f"{mean(result['top1']['reporting'] for result in results):.2f}")
            figures += [f"{mean(share(result, threshold) for result in results):.2f}" for threshold in DEAD]
            known_k = [result["coefficients"]["gradient"] for result in results if "coefficients" in result]
            figures.append(f"{mean(known_k):.3g}" if known_k else "-")
        told = [found.get(row) for found in by_threshold]
        figures += ["-" if value is None else f"{value:.2f}" for value in told]
        lines.append(f"| {row.unit or 'none'} | {row.strength or '-'} | {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> int:
    known = results_of(SETTING)
    root = Path(__file__).resolve().parents[2]
    parts = [table(known), *(decision(known, threshold) for threshold in DEAD), open_line(SETTING, cells(known), known)]
    return written(root / "docs" / "transfer.md", BEGIN, END, "\n\n".join(parts) + "\n")
