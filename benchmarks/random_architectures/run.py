"""Prune many random architectures, and compare each with its silenced twin, and without its dead filters with the dense model.

    python benchmarks/random_architectures/run.py [--cases 10000] [--first 0] [--out
    results/random-architectures/random-architectures.json] [--workers 1] [--again]

Case n is drawn by ``random.Random(n)``: the architecture, then the criterion, the budget and the scope, as in
``tests/networks/random_architectures.py``, ``tests/networks/twin_property.py`` and ``tests/networks/dense_property.py``, which
say what is checked. Where the twin is not defined (``tests/networks/twin_limits.py``) it judges nothing, and the record says
so. The output file is written every hundred cases, and a run goes on where it was interrupted, unless ``--again``; it names the
revisions that made it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import pkgutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "networks"), str(ROOT / "src"), str(ROOT / "benchmarks")]

from dense_property import THRESHOLD, DenseVerdict, dense_verdict  # noqa: E402
from random_architectures import architecture  # noqa: E402
from revisions import revision  # noqa: E402
from twin_property import LARGEST_DIFFERENCE, OTHER_INPUTS, Verdict, verdict  # noqa: E402

import flowprune  # noqa: E402

TENTHS = [f"{tenth * 10} to {tenth * 10 + 10} %" for tenth in range(10)]


def main() -> None:
    """Run what is missing, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "results" / "random-architectures" / "random-architectures.json"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--again", action="store_true", help="begin anew, whatever is in the output file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import_everything()
    record = begun(arguments.out, arguments.first, arguments.again)
    record["asked"] = arguments.cases
    judge_again(record)
    seeds = range(arguments.first + record["cases"], arguments.first + arguments.cases)
    # Forked, so that every worker has the engine that was imported just now; the verdicts come in the order of the seeds.
    with multiprocessing.get_context("fork").Pool(arguments.workers) as pool:
        for judged in pool.imap(judge, seeds):
            add(record, judged)
            report_at_hundreds(record, arguments)
    write(record, arguments.out)
    for failure in record["failures"]:
        print(f"seed {failure['seed']}: {failure['failure']} ({'; '.join(failure['budget'])})")


def report_at_hundreds(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Keep what is known so far, and say so."""
    if record["cases"] % 100 == 0 or record["cases"] == arguments.cases:
        write(record, arguments.out)
        each = record["cpu_seconds"] / record["cases"]
        print(f"{record['cases']} cases, {len(record['failures'])} failures, {each:.3f} s each", flush=True)


def import_everything() -> None:
    """Import every module of the engine now: a long run is then one revision's, whatever is edited meanwhile."""
    for module in pkgutil.walk_packages(flowprune.__path__, "flowprune."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def begun(path: Path, first: int, again: bool) -> dict[str, Any]:
    """The record so far."""
    made_by = revision(ROOT, required=False)
    start: dict[str, Any] = {
        "command": "python benchmarks/random_architectures/run.py",
        "revisions": [made_by],
        "torch": torch.__version__,
        "first_seed": first,
        "asked": 0,
        "cases": 0,
        "failures": [],
        "tolerance": LARGEST_DIFFERENCE,
        "inputs_a_case": 1 + OTHER_INPUTS,
        "equal_to_their_twin": 0,
        "twin_undefined": [],
        "share_judged_by_the_twin": None,
        "largest_difference": 0.0,
        "smallest_change_from_dense": None,
        "empty": [],
        "dead": {
            "equal_to_the_dense_model": 0,
            "of_them_with_filters_removed": 0,
            "of_them_with_constants_folded": 0,
            "filters_removed": 0,
            "largest_difference": 0.0,
            "at_the_default_tolerance": 0,
            "at_the_default_tolerance_equal_to_their_twin": 0,
            "largest_difference_from_the_twin": 0.0,
        },
        "budget_unreachable": 0,
        "mean_share_of_parameters_kept": 0.0,
        "mean_share_frozen": 0.0,
        "share_frozen": dict.fromkeys(TENTHS, 0),
        "budgets": {},
        "networks_with": {},
        "cpu_seconds": 0.0,
    }
    if path.exists() and not again:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["first_seed"] == first:
            found["revisions"] = list(dict.fromkeys([*found["revisions"], made_by]))
            return found
    return start


class Judged(NamedTuple):
    """What was found of one case."""

    seed: int
    kinds: Collection[str]
    found: Verdict
    without_dead: DenseVerdict
    cpu_seconds: float


def judge(seed: int) -> Judged:
    """One case."""
    began = time.process_time()
    random = Random(seed)
    model, kinds = architecture(random)
    found, without_dead = verdict(model, random), dense_verdict(model, random)
    return Judged(seed, kinds, found, without_dead, time.process_time() - began)


def add(record: dict[str, Any], judged: Judged) -> None:
    """One more case."""
    seed, kinds, found, without_dead, seconds = judged
    record["cpu_seconds"] += seconds
    number = record["cases"]
    record["cases"] += 1
    for kind in kinds:
        record["networks_with"][kind] = record["networks_with"].get(kind, 0) + 1
    for asked in found.budget[:1]:
        words = [word.strip("(',)") for word in asked.split()]
        kind = " ".join(word for word in words if not word[0].isdigit() and word != "scope")
        record["budgets"][kind] = record["budgets"].get(kind, 0) + 1
    record["budget_unreachable"] += len(found.budget) > 1
    record["share_frozen"][TENTHS[min(int(found.frozen * 10), 9)]] += 1
    for key, value in (("mean_share_of_parameters_kept", found.kept), ("mean_share_frozen", found.frozen)):
        record[key] = (record[key] * number + value) / (number + 1)
    enter(record, seed, found)
    enter_dead(record, seed, without_dead)


def judge_again(record: dict[str, Any]) -> None:
    """What failed, or was not judged, when the run was interrupted may have been mended since."""
    failed, record["failures"] = record["failures"], []
    wrong = {property_: {f["seed"] for f in failed if f["reference"] == property_} for property_ in ("twin", "dense")}
    wrong["twin"] |= {entry["seed"] for entry in record["twin_undefined"]}
    record["twin_undefined"] = []
    for judged in map(judge, sorted(wrong["twin"] | wrong["dense"])):
        if judged.seed in wrong["twin"]:
            enter(record, judged.seed, judged.found)
        if judged.seed in wrong["dense"]:
            enter_dead(record, judged.seed, judged.without_dead)


def enter(record: dict[str, Any], seed: int, found: Verdict) -> None:
    """Put a verdict where it belongs."""
    if found.failure is not None:
        failure = {"seed": seed, "reference": "twin", "budget": found.budget, "failure": found.failure}
        record["failures"].append(failure)
    elif found.empty:
        record["empty"].append(seed)
    elif found.undefined is not None:
        record["twin_undefined"].append({"seed": seed, "budget": found.budget, "where": found.undefined})
    else:
        record["equal_to_their_twin"] += 1
        record["largest_difference"] = max(record["largest_difference"], found.difference)
        least = record["smallest_change_from_dense"]
        record["smallest_change_from_dense"] = found.from_dense if least is None else min(least, found.from_dense)


def enter_dead(record: dict[str, Any], seed: int, found: DenseVerdict) -> None:
    """Put a verdict on what is dead where it belongs."""
    dead = record["dead"]
    budget = f"threshold {THRESHOLD}"
    if found.failure is not None:
        failure = {"seed": seed, "reference": "dense", "budget": [budget], "failure": found.failure}
        record["failures"].append(failure)
        return
    dead["equal_to_the_dense_model"] += 1
    dead["of_them_with_filters_removed"] += found.removed > 0
    dead["of_them_with_constants_folded"] += found.folded > 0
    dead["filters_removed"] += found.removed
    dead["largest_difference"] = max(dead["largest_difference"], found.difference)
    if found.from_twin is None:
        return
    dead["at_the_default_tolerance"] += 1
    if found.undefined is not None:
        record["twin_undefined"].append({"seed": seed, "budget": [budget], "where": found.undefined})
    else:
        dead["at_the_default_tolerance_equal_to_their_twin"] += 1
        dead["largest_difference_from_the_twin"] = max(dead["largest_difference_from_the_twin"], found.from_twin)


def write(record: dict[str, Any], path: Path) -> None:
    """The record so far, the frequent kinds of block first."""
    judged = record["equal_to_their_twin"] + record["dead"]["at_the_default_tolerance_equal_to_their_twin"]
    judged += sum(failure["reference"] == "twin" for failure in record["failures"])
    record["share_judged_by_the_twin"] = judged / max(judged + len(record["twin_undefined"]), 1)
    for key in ("networks_with", "budgets"):
        record[key] = dict(Counter(record[key]).most_common())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
