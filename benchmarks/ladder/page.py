"""Write the tables of docs/ladder.md anew from results/ladder/*.json.

    python benchmarks/pages.py ladder [--check]

What has not been run stands there as "not run yet". ``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

from pathlib import Path

from evidence.cells import Known
from evidence.courses import Course, Tried
from evidence.paired import Pairs, paired_table, said
from evidence.results import open_line, results_of
from evidence.verdict import NOT_RUN
from ladder.run import FORMS, FRESH, KEPT, SETTING, TRIED, best_form, cells, chosen, course, fresh
from written_pages import header, written

BEGIN, END = "<!-- ladder:begin -->", "<!-- ladder:end -->"


def chosen_table(known: Known) -> str:
    """What seed 0 makes of every setting: a row a setting."""
    columns = ["form", "setting", "uncut, top-1 %", "dead (0.01) %", "MACs left by what is dead %"]
    for kept in KEPT:
        columns += [f"{kept:.0%} of the MACs: cut by", "one shot", "recovered"]
    return "\n".join([*header(columns, 2), *(_row(one, known) for one in TRIED)])


def _row(tried: Tried, known: Known) -> str:
    made = course(tried)
    first, removal = known.get(made.trained.name), known.get(f"{made.trained.name}-removal-0.01")
    figures = [NOT_RUN, "-", "-"]
    if first is not None:
        left = "-" if removal is None else f"{100 * removal['macs'] / first['macs']:.1f}"
        figures = [f"{first['top1']['choosing']:.2f}", f"{100 * first['dead_filters'] / first['filters']:.2f}", left]
    for kept in KEPT:
        figures += _cut(made, kept, known)
    picked = " (chosen)" if chosen(tried.form, known) is tried else ""
    return f"| {tried.form} | {tried.setting}{picked} | {' | '.join(figures)} |"


def _cut(made: Course, kept: float, known: Known) -> list[str]:
    way = made.best(kept, known)
    if way is None:
        return [NOT_RUN, "-", "-"]
    cut, end = made.cut(way, kept, known), made.end(kept, known, "choosing")
    assert cut is not None
    shown = NOT_RUN if end is None else f"{end:.2f}"
    return [way, f"{known[cut.name]['top1']['choosing']:.2f}", shown]


def pairs_of(form: str, known: Known) -> list[Pairs]:
    """A form beside plain training, at both budgets; each in the setting, and cut in the way, that seed 0 chose.

    "plain" stands for plain training cut by its energy.
    """
    found = []
    for kept in KEPT:
        ends = []
        for seed in FRESH:
            own, plain = fresh(form, seed, known), fresh("plain", seed, known)
            if own is None or plain is None:
                continue
            way = "energy" if form == "plain" else chosen_way(own, kept)
            tops = (
                own.top1(way, kept, known, "reporting"),
                plain.top1(chosen_way(plain, kept), kept, known, "reporting"),
            )
            if tops[0] is not None and tops[1] is not None:
                ends.append((tops[0], tops[1]))
        found.append(Pairs("plain, cut by its energy" if form == "plain" else form, kept, ends))
    return found


def chosen_way(made: Course, kept: float) -> str:
    """The last one that a fresh seed tries."""
    return made.ways[kept][-1]


def conclusion(known: Known) -> str:
    """The verdict, in a sentence."""
    best = best_form(known)
    if best is None:
        return f"Verdict: {NOT_RUN}; seed 0 has not chosen a form yet."
    return f"Verdict of {best}, which seed 0 is best with: {said(pairs_of(best, known))}."


def main() -> int:
    known = results_of(SETTING)
    root = Path(__file__).resolve().parents[2]
    rows = [pairs for form in (*FORMS, "plain") for pairs in pairs_of(form, known)]
    parts = [
        "### Seed 0 chooses (test images 0 to 1,999)",
        chosen_table(known),
        "### Seeds 1 to 3 report (test images 2,000 to 9,999)",
        paired_table(rows),
        conclusion(known),
        open_line(SETTING, cells(known), known),
    ]
    return written(root / "docs" / "ladder.md", BEGIN, END, "\n\n".join(parts) + "\n")
