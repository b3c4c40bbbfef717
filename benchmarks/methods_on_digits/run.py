"""Every preset on digits, beside chance and L1 at its budget: results/methods-on-digits/, one file a cell.

    python benchmarks/methods_on_digits/run.py [NAME ...] [--list] [--at-most N]

The presets' short forms, with the network, images and epochs of study.yaml; a name takes the cells of that method alone. Cuts are
asked for MACs, masks for weights, what is stored for bytes; the share is the first in study.yaml at which chance loses five points
with the first seed, which the first cells find out. Fixed patterns are asked nothing.

- unpruned: trained on as long as the others.
- chance, l1: channels, or weights, by chance or by L1, after the same training, with the same recovery. Beside a fixed pattern
  every tensor keeps what it keeps there: chance trains so from the start, L1 masks what was trained. Where bytes are asked for,
  channels are cut until the float32 numbers that are left take no more.

Cells of a seed share the trainings that they begin with alike. What is finished is not run again, until its file is removed or its
recipe is another; an interrupted cell goes on where it stopped. One process, one thread. ``--list`` says what is open, in order.
``pages.py methods_on_digits`` makes docs/methods-on-digits.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import flowprune as fp
from flowprune.artifacts.atomic_write import write_text
from flowprune.engine.measuring.latency import time_in_turns
from flowprune.engine.steps.lineage import lineage_of
from flowprune.errors import FlowpruneError
from flowprune.methods.presets import REGISTRY as PRESETS
from flowprune.methods.replacements.branched_convolution import with_branches
from flowprune.reporting import environment
from flowprune.studies.phases import TrainPhase
from flowprune.studies.pipeline.course import Stop, course_of
from flowprune.studies.pipeline.job import Job, data_of
from flowprune.studies.pipeline.run_folder import RunFolder
from flowprune.studies.pipeline.stages import Record, Stages
from flowprune.studies.recipe import Recipe

sys.path[0] = str(Path(__file__).resolve().parents[1])

from methods_on_digits.cells import CONTROLS, Cell, Study, cells_of, recipe_of, the_study  # noqa: E402  (which lies beside this file)

IMAGES, TURNS = 256, 9
"""How a forward is timed."""


def finished_cells(out: Path) -> dict[str, dict[str, Any]]:
    """What the files say, by the cells' names."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*-seed*.json"))}


def open_cells(study: Study, out: Path, methods: Sequence[str]) -> list[Cell]:
    """What is to be run, in order, as far as the shares are chosen."""
    finished = finished_cells(out)
    cells = [cell for cell in dict.fromkeys(cells_of(study, finished)) if not methods or cell.method in methods]
    return [cell for cell in cells if _recipe_in(finished.get(cell.name, {})) != recipe_of(study, cell)]


def _recipe_in(result: Mapping[str, Any]) -> Recipe | None:
    """The recipe of a file, with what recipes have learnt to say since; None where there is none that can be read."""
    try:
        return Recipe.model_validate(result["recipe"])
    except (KeyError, ValueError):
        return None


def result_of(study: Study, cell: Cell, work: Path) -> dict[str, Any]:
    """What a cell came to: the content of its file."""
    began = time.perf_counter()
    recipe = recipe_of(study, cell)
    about = {"method": cell.method, "kind": cell.kind, "share": cell.share, "seed": cell.seed}
    found: dict[str, Any] = {"command": "python benchmarks/methods_on_digits/run.py", **about}
    try:
        found |= _carried_out(recipe, work)
    except FlowpruneError as error:
        found["refused"] = str(error)
    found |= {"seconds": round(time.perf_counter() - began, 1), "environment": environment()}
    return {**found, "recipe": recipe.model_dump(mode="json")}


def _carried_out(recipe: Recipe, work: Path) -> dict[str, Any]:
    (method,) = recipe.methods
    (network,) = recipe.networks
    course = list(course_of(recipe.phases_of(method)))
    names = {(stop.stage, stop.budgets): _digest(recipe, stop) for stop in course}
    folder = RunFolder(work)
    (work / "models").mkdir(parents=True, exist_ok=True)
    job = Job(recipe, data_of(recipe.data, None, recipe.training.seed), torch.device("cpu"))
    job.check()
    stages = Stages(job, folder, network, method, lambda *stage: names[stage], False, lambda line: None)
    records = [stages.done(stop) for stop in course]
    rows = [_kept(record) for record in records]
    found = {"top1": rows[-1]["top1"], **_measured(stages.model_after(course[-1]), method, job), "rows": rows}
    for stop in course:
        if not _is_shared(stop):
            shutil.rmtree(folder.stage(names[stop.stage, stop.budgets]), ignore_errors=True)
            folder.model(names[stop.stage, stop.budgets]).unlink(missing_ok=True)
    return found


def _digest(recipe: Recipe, stop: Stop) -> str:
    """A name for what a stage leaves: the same for two recipes that are the same up to there."""
    phases = []
    here: Stop | None = stop
    while here is not None:
        phases.append([here.phase.model_dump(mode="json"), str(here.budget)])
        here = here.before
    sections = [one.model_dump(mode="json") for one in (*recipe.networks, recipe.data)]
    said = json.dumps([sections, recipe.training.seed, phases], sort_keys=True)
    return f"{stop.stage}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def _is_shared(stop: Stop) -> bool:
    return isinstance(stop.phase, TrainPhase) and stop.before is None and not stop.phase.regularizers


def _kept(record: Record) -> dict[str, Any]:
    """What a doubting reader needs of a stage."""
    kept = {key: value for key, value in record["row"].items() if key not in ("network", "method", "dead_by_threshold")}
    if "channels" in record:
        kept["channels"] = {layer["layer"]: f"{layer['kept']} of {layer['dense']}" for layer in record["channels"]}
    return {**kept, "seconds": round(record["seconds"], 1)}


def _measured(model: nn.Module, method: str, job: Job) -> dict[str, Any]:
    """What the network costs in the end, and, where it is smaller for good, how long it takes beside the dense one."""
    dense, example = job.build(job.recipe.networks[0]), job.example()
    structured = method not in PRESETS or PRESETS[method].kind in ("structured", "recovery")
    physical = model
    masks = lineage_of(model).masks
    if structured and method in PRESETS and method not in CONTROLS and masks:  # a control's zeros lie anywhere
        physical = with_branches(model, {name: mask for name, mask in masks.items() if mask.dim() == 4})
    cost, whole, small = fp.measure(model, example), fp.measure(dense, example), fp.measure(physical, example)
    found: dict[str, Any] = {
        "nonzero": cost.nonzero,
        "effective_macs": cost.effective_macs,
        "bytes": cost.stored_bytes,
        "macs": small.macs,
        "dense": {"params": whole.params, "macs": whole.macs, "bytes": whole.stored_bytes},
        "time_share": None,
    }
    if small.macs < whole.macs:
        images = torch.zeros(IMAGES, *job.data.shape)
        first, other = time_in_turns([dense, physical], images, turns=TURNS)
        found["time_share"] = other.share_of(first)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods, or unpruned, chance, l1; all if left out")
    parser.add_argument("--list", action="store_true", help="say what is open, and run nothing")
    parser.add_argument("--at-most", type=int, metavar="N", help="cells; all if left out")
    parser.add_argument("--out", type=Path, default=Path("results/methods-on-digits"))
    parser.add_argument("--work", type=Path, default=Path("runs/methods-on-digits"), help="not committed")
    asked = parser.parse_args()
    study = the_study()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    done = 0
    while cells := open_cells(study, asked.out, asked.names):
        if asked.list:
            print("\n".join(cell.name for cell in cells))
            return
        if done == asked.at_most:
            return
        result = result_of(study, cells[0], asked.work)
        write_text(asked.out / f"{cells[0].name}.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
        said = f"refused: {result['refused']}" if "refused" in result else f"{result['top1']:.2f} %"
        print(f"{cells[0].name}: {said} ({result['seconds']:.0f} s)", flush=True)
        done += 1


if __name__ == "__main__":
    main()
