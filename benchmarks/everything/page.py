"""Write the tables of docs/everything.md anew from results/everything/*.json.

    python benchmarks/pages.py everything [--check]

What has not been run stands there as "not run yet". ``--check`` changes nothing and fails if the page is out of date.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from everything.adapted import BUDGETS
from everything.run import FURTHER_SEEDS, IMAGES, KINDS, SETTING, Row, cells, rows
from evidence.cells import Known, Result
from evidence.paired import spread
from evidence.results import open_line, results_of
from evidence.verdict import NOT_RUN
from written_pages import header, written

BEGIN, END = "<!-- everything:begin -->", "<!-- everything:end -->"
COLUMNS = (
    "row",
    "top-1 %",
    "beside unpruned",
    "MACs kept %",
    "weights kept %",
    "bytes kept %",
    "image passes, in epochs",
    "minutes",
    "seeds",
)
TITLES = {
    "control": "Unpruned, trained on as long",
    "structured": "Structured",
    "mask": "Masks",
    "fixed pattern": "Fixed patterns",
    "quantizer": "Quantizers",
    "codec": "Codecs",
    "recovery": "Apart: recoveries, behind a cut by L1",
}


def ends_of(row: Row, known: Known) -> dict[int, Result]:
    """Seed -> the last cell's result, of the seeds that are there."""
    found = {seed: row.end(known, seed) for seed in (0, *FURTHER_SEEDS)}
    return {seed: end for seed, end in found.items() if end is not None}


def line(row: Row, known: Known) -> str:
    """Of the table; what is kept is kept of the unpruned network, zeros and stored values counted as what they are."""
    ends = ends_of(row, known)
    if not ends:
        return f"| {row.name} | {NOT_RUN} |" + " - |" * (len(COLUMNS) - 2)
    whole = next(one for one in rows() if one.name == "unpruned").end(known, 0)
    tops = [float(end["top1"]["reporting"]) for end in ends.values()]
    beside, kept = "-", ["-"] * 3
    if whole is not None:
        if row.name != "unpruned":
            beside = f"{mean(tops) - whole['top1']['reporting']:+.2f}"
        kept = [
            f"{100 * mean(end[key] for end in ends.values()) / whole[key]:.1f}"
            for key in ("effective_macs", "nonzero", "stored_bytes")
        ]
    made = [[known[cell.name] for cell in row.cells(seed)] for seed in ends]
    passes = mean(sum(one["passes"] for one in course) for course in made) / IMAGES
    minutes = mean(sum(one["seconds"] for one in course) for course in made) / 60
    figures = [spread(tops), beside, *kept, f"{passes:.2f}", f"{minutes:.0f}", ", ".join(map(str, ends))]
    return f"| {row.name} | {' | '.join(figures)} |"


def worth(row: Row, known: Known) -> float:
    """What the rows of a table are ordered by."""
    tops = [float(end["top1"]["reporting"]) for end in ends_of(row, known).values()]
    return mean(tops) if tops else -1.0


def section(kind: str, known: Known) -> str:
    """The table of one kind, the best first."""
    own = sorted((row for row in rows() if row.kind == kind), key=lambda row: -worth(row, known))
    asked = BUDGETS.get(kind)
    named = {"macs": "of the MACs", "weights": "of the weights", "bytes": "of the bytes"}
    kept = [f"{100 * share:g} % {named[of]} kept" for of, share in (asked or {}).items()]
    title = f"### {TITLES.get(kind, kind.capitalize())}" + (f" ({kept[0]})" if kept else "")
    if not own:
        return f"{title}\n\nNo preset of this kind is there yet."
    return "\n".join([title, "", *header(COLUMNS, 1), *(line(row, known) for row in own)])


def main() -> int:
    known = results_of(SETTING)
    root = Path(__file__).resolve().parents[2]
    parts = [*(section(kind, known) for kind in KINDS), open_line(SETTING, cells(known), known)]
    return written(root / "docs" / "everything.md", BEGIN, END, "\n\n".join(parts) + "\n")
