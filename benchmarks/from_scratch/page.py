"""Write the tables of docs/from-scratch.md anew from results/from-scratch/*.json, and the verdict's line in the README.

    python benchmarks/pages.py from_scratch [--check]

What has not been run stands there as "not run yet". ``--check`` changes nothing and fails if a page is out of date.
"""

from __future__ import annotations

from pathlib import Path

from evidence.cells import Known
from evidence.paired import Pairs, paired_table, said
from evidence.results import open_line, results_of
from evidence.verdict import NOT_RUN
from from_scratch.run import FRESH, KEPT, SETTING, Tried, cells, chosen, forms, fresh, tried_course
from ladder.page import pairs_of as pairs_on_the_ladder
from ladder.run import SETTING as LADDER
from ladder.run import best_form
from written_pages import all_written, filled, header

BEGIN, END = "<!-- from-scratch:begin -->", "<!-- from-scratch:end -->"
VERDICT = "<!-- verdict:begin -->", "<!-- verdict:end -->"


def tried_table(known: Known) -> str:
    """What seed 0 makes of every setting on the images that choose: a row a setting."""
    columns = ("form", "setting", "uncut, top-1 %", "dead (0.01) %", "dead (0.1) %", "cut by", "one shot", "recovered")
    lines = header(columns, 2)
    for tries in forms().values():
        picked = chosen(tries, known)
        lines += [_row(one, known, picked is not None and picked[0].name == one.name) for one in tries]
    return "\n".join(lines)


def _row(tried: Tried, known: Known, is_chosen: bool) -> str:
    made = tried_course(tried)
    first = known.get(made.trained.name)
    figures = [NOT_RUN, *["-"] * 5]
    if first is not None:
        dead = [f"{100 * first['dead_by_threshold'][t] / first['filters']:.2f}" for t in ("0.01", "0.1")]
        figures = [f"{first['top1']['choosing']:.2f}", *dead, NOT_RUN, "-", "-"]
    way = made.best(KEPT, known)
    if way is not None:
        cut, end = made.cut(way, KEPT, known), made.end(KEPT, known, "choosing")
        assert cut is not None
        shown = NOT_RUN if end is None else f"{end:.2f}"
        figures[-3:] = [way, f"{known[cut.name]['top1']['choosing']:.2f}", shown]
    return f"| {tried.form} | {tried.setting}{' (chosen)' if is_chosen else ''} | {' | '.join(figures)} |"


def pairs(known: Known) -> Pairs:
    """The form beside plain training."""
    own = forms()
    form = next((form for form in own if form != "plain"), "the flow")
    ends = []
    for seed in FRESH if form in own else ():
        tops = []
        for tries in (own[form], own["plain"]):
            made = fresh(tries, seed, known)
            tops.append(None if made is None else made.end(KEPT, known, "reporting"))
        if tops[0] is not None and tops[1] is not None:
            ends.append((tops[0], tops[1]))
    return Pairs(form, KEPT, ends)


def line(known: Known, on_the_ladder: Known) -> str:
    """The verdict for the README, whatever it is."""
    best = best_form(on_the_ladder)
    trained = NOT_RUN if best is None else said(pairs_on_the_ladder(best, on_the_ladder))
    return (
        "**Does training with the flow pay?** ResNet-20 on CIFAR-10, beside plain training with the same epochs, cut and recovery: "
        f"as a phase on a trained network {trained} ([docs/ladder.md](docs/ladder.md)); from scratch {said([pairs(known)])} "
        "([docs/from-scratch.md](docs/from-scratch.md))."
    )


def main() -> int:
    known, on_the_ladder = results_of(SETTING), results_of(LADDER)
    root = Path(__file__).resolve().parents[2]
    row = pairs(known)
    parts = [
        "### Seed 0 chooses (5,000 training images, 10 epochs)",
        tried_table(known),
        "### Seeds 1 to 3 report (test images 2,000 to 9,999, 30 epochs)",
        paired_table([row]),
        f"Verdict of {row.form}: {said([row])}.",
        open_line(SETTING, cells(known), known),
    ]
    page, readme = root / "docs" / "from-scratch.md", root / "README.md"
    texts = {path: path.read_text(encoding="utf-8") for path in (page, readme)}
    return all_written(
        {
            page: filled(texts[page], BEGIN, END, "\n\n".join(parts) + "\n"),
            readme: filled(texts[readme], *VERDICT, f"{line(known, on_the_ladder)}\n"),
        }
    )
