"""Write docs/methods-on-digits.md from results/methods-on-digits/.

python benchmarks/pages.py methods_on_digits [--check]
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from methods_on_digits.cells import CHANCE, KERNELS, KINDS, L1, OWN, PATTERN, UNPRUNED, Study, kind_of, the_study
from methods_on_digits.run import finished_cells
from written_pages import all_written, header

from flowprune.methods.presets import REGISTRY as PRESETS

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULTS = ROOT / "docs/methods-on-digits.md", ROOT / "results/methods-on-digits"
HEADERS = (
    "kept",
    "method",
    "seeds",
    "top-1 %",
    "beside chance",
    "non-zero weights",
    "effective MACs",
    "MACs removed",
    "bytes",
    "time",
)
ERRORS = 2
"""So many standard errors below chance a method is called worse."""

Results = Sequence[Mapping[str, Any]]

HEAD = """# Every method on digits, beside chance and L1

`python benchmarks/methods_on_digits/run.py` runs the short form of every preset ([methods.md](methods.md)) on handwritten digits,
with {seeds} seeds, and beside each what keeps as much by chance and by L1 after the same training and with the same recovery.
All are {network} on images of {size} x {size}: {epochs} epochs, and {recovery} of recovery. `--list` says what is open; what is
finished is in `results/methods-on-digits/`, one file a run with its recipe. `python benchmarks/pages.py methods_on_digits` writes
this page.

The task is small: it says which method is broken, not which is best. So that there is something to lose, the share that is kept
is the first of {shares} at which chance loses {lost} points with the first seed.
{chosen}

- **kept**: what a method is asked for. Cuts are asked for MACs, masks for non-zero weights, what a codec stores for bytes.
  A fixed pattern keeps what it keeps; beside it chance keeps as much of each tensor, from the start of the training, and L1 masks
  a trained network so. At about a sixth chance, trained so from the start, loses a point at most, and this network is too narrow
  for sparser patterns (HetConv keeps a ninth at least): these rows say that a pattern is not broken, not that it is good. For
  bytes, the controls are float32 networks whose channels were cut until they take no more.
- **top-1**: after the last epoch, on the 500 test images; mean and deviation over the seeds.
- **beside chance**: in points, with the standard error of the difference. *Worse* says that it is more than two of them below 0.
- **non-zero weights** (of all parameters), **effective MACs** (those whose weight is not zero), **bytes** (as stored): shares of
  the dense network's.
- **MACs removed**: really, in the network that is left. **time**: a forward of 256 images as a share of the dense network's, in
  turns, on one core of a machine that did other things as well.
"""


def main() -> int:
    return all_written({PAGE: page(the_study(), list(finished_cells(RESULTS).values()))})


def page(study: Study, results: Results) -> str:
    """The page of what is there."""
    network = f"{study['network']['name']} of width {study['network']['options']['width']}"
    head = HEAD.format(
        seeds=len(study["seeds"]),
        network=network,
        size=study["data"]["size"],
        epochs=study["epochs"],
        recovery=study["recovery"],
        shares=", ".join(f"{share:g}" for share in study["shares"]),
        lost=study["lost"],
        chosen="\n".join(_chosen(results)),
    )
    lines = [head, *header(HEADERS, 2), *(f"| {' | '.join(row)} |" for row in rows(study, results))]
    lines += ["", *_standing_apart(study, results)]
    return "\n".join(lines).rstrip() + "\n"


def rows(study: Study, results: Results) -> Iterator[Sequence[str]]:
    """The table: what nothing left, then each share of a kind from controls to methods, the best first."""
    asked = len(study["seeds"])
    done = [one for one in results if "refused" not in one]
    if whole := _of(done, UNPRUNED, "all", None):
        yield _row("all", UNPRUNED, whole, None, asked)
    for kind in KINDS:
        shares = {one["share"] for one in done if one["kind"] == kind and one["method"] not in (CHANCE, L1)}
        for share in sorted(shares, reverse=True):
            names = {one["method"] for one in done if (one["kind"], one["share"]) == (kind, share)}
            yield from _group(f"{kind} {share:g}", kind, share, kind, names - {CHANCE, L1}, done, asked)
    for name in (name for name in PRESETS if kind_of(name) == PATTERN):
        if _of(done, name, PATTERN, None):
            yield from _group(f"as {name}", PATTERN, None, f"{PATTERN}-{name}", {name}, done, asked)
    for name in (name for name in PRESETS if kind_of(name) == OWN):
        if found := _of(done, name, OWN, None):
            yield _row("its own", name, found, None, asked)


def _group(
    kept: str, kind: str, share: float | None, beside: str, names: set[str], done: Results, asked: int
) -> Iterator[Sequence[str]]:
    chance = _of(done, CHANCE, beside, share)
    for control in (CHANCE, KERNELS, L1):
        if found := _of(done, control, beside, share):
            yield _row(kept, control.replace("-", " "), found, None if control == CHANCE else chance, asked)
    best = sorted(sorted(names), key=lambda name: -statistics.mean(_top1(_of(done, name, kind, share))))
    for name in best:
        yield _row(kept, f"[{name}](methods/{name}.md)", _of(done, name, kind, share), chance, asked)


def _row(kept: str, method: str, found: Results, chance: Results | None, asked: int) -> Sequence[str]:
    def share(key: str) -> Callable[[Mapping[str, Any]], float]:
        whole = {"effective_macs": "macs", "nonzero": "params"}.get(key, key)
        # The first files do not say what the dense network has; their first row does, of a network that nothing had left.
        return lambda one: 100 * one[key] / (one["dense"].get(whole) or one["rows"][0][whole])

    times = [one["time_share"] for one in found if one["time_share"] is not None]
    cut = [100 - share("macs")(one) for one in found]
    return (
        kept,
        method,
        f"{len(found)} of {asked}",
        _spread(_top1(found)),
        "" if not chance else difference(_top1(found), _top1(chance)),
        *(f"{statistics.mean(map(share(key), found)):.1f} %" for key in ("nonzero", "effective_macs")),
        f"{statistics.mean(cut):.1f} %" if any(cut) else "-",
        f"{statistics.mean(map(share('bytes'), found)):.1f} %",
        f"{statistics.mean(times):.2f}" if times else "-",
    )


def difference(method: Sequence[float], chance: Sequence[float]) -> str:
    """How far a method lies above chance, and whether it is worse."""
    points = statistics.mean(method) - statistics.mean(chance)
    if min(len(method), len(chance)) < 2:
        return f"{points:+.1f}"
    error = math.sqrt(sum(statistics.variance(one) / len(one) for one in (method, chance)))
    return f"{points:+.1f} ± {error:.1f}" + (" *worse*" if points < -ERRORS * error else "")


def _chosen(results: Results) -> Iterator[str]:
    """At which share chance lost how much, with the first seed."""
    whole = {one["seed"]: one["top1"] for one in results if one["method"] == UNPRUNED}
    for kind in KINDS:
        tried = [one for one in results if one["method"] == CHANCE and one["kind"] == kind and "top1" in one]
        tried = [one for one in tried if one["seed"] == min(whole, default=None)]
        tried.sort(key=lambda one: -one["share"])
        if tried:
            lost = ", ".join(f"{one['share']:g}: {whole[one['seed']] - one['top1']:.1f}" for one in tried)
            yield f"Points that chance lost at shares of the {kind}: {lost}."


def _standing_apart(study: Study, results: Results) -> Iterator[str]:
    """What could not be asked, with the reason."""
    refused = {(one["method"], one["kind"], one["share"], one["refused"]) for one in results if "refused" in one}
    if study["asked_at"]:
        yield "Asked for more than the chosen share, as they do not go that far: " + (
            ", ".join(f"{name} ({share:g})" for name, share in study["asked_at"].items()) + "."
        )
        yield ""
    for method, reason in study["found"].items():
        yield f"- **{method}** was no better than chance at first: {reason}"
    for method, reason in study["worse"].items():
        yield f"- **{method}** is worse than chance: {reason}"
    for method, kind, share, reason in sorted(refused, key=str):
        yield f"- **{method}** stands apart at {kind}{'' if share is None else f' {share:g}'}: {reason}"


def _of(results: Results, method: str, kind: str, share: float | None) -> Results:
    wanted = (method, kind, share)
    return [one for one in results if (one["method"], one["kind"], one["share"]) == wanted and "refused" not in one]


def _top1(found: Results) -> list[float]:
    return [one["top1"] for one in found]


def _spread(numbers: Sequence[float]) -> str:
    return f"{statistics.mean(numbers):.1f}" + (f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else "")
