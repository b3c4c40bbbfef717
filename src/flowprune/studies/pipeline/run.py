"""The whole job in order."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from flowprune.artifacts.atomic_write import replacing
from flowprune.engine.measuring.number_of_threads import threads
from flowprune.models import check_name
from flowprune.reporting import environment, write_report
from flowprune.studies.pipeline.chosen_precision import as_begun, measured
from flowprune.studies.pipeline.course import course_of
from flowprune.studies.pipeline.job import Job, data_of
from flowprune.studies.pipeline.run_folder import MODEL, REPORT, RunFolder
from flowprune.studies.pipeline.stages import Record, Stages, names_of_run
from flowprune.studies.recipe import Recipe

RESULTS_FORMAT = 1


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train every network by every method, prune it to every budget, fine-tune, measure, report.

    Everything is checked before anything is written or trained: names, data, whether the networks run on it, and whether the
    budgets can be met. Killed at any moment, the run goes on with ``resume``: finished stages are kept, a training goes on
    from its last epoch.

    Args:
        recipe: what to do.
        out: the run folder; see ``RunFolder`` for what it holds in the end.
        data_dir: where data sets lie; else the environment variable FLOWPRUNE_DATA.
        resume: go on with the run in ``out`` (or begin it, if there is none).
        overwrite: remove the run in ``out`` first.
        progress: show bars on standard error.
        say: receives a line whenever a stage is finished.

    Returns:
        The content of ``results.json``.

    Raises:
        FlowpruneError: of a kind that says what is wrong: the recipe, the data, a model, a budget, the folder.
    """
    began = time.perf_counter()
    state = Accelerator(mixed_precision="no")
    folder = RunFolder(out, writes=state.is_main_process)
    if resume:
        recipe = as_begun(recipe, folder)
    if folder.writes:
        folder.check(recipe, resume=resume, overwrite=overwrite)
    for network in recipe.networks:
        check_name(network.name)
    data = data_of(recipe.data, data_dir, recipe.training.seed)
    with threads(recipe.threads):
        job = Job(recipe, data, state.device)
        job.check()
        recipe, precision = measured(recipe, state, data, lambda: [job.build(network) for network in recipe.networks])
        job = replace(job, recipe=recipe)
        folder.claim(recipe, precision, resume=resume, overwrite=overwrite)
        if folder.writes and precision is not None:
            say(str(precision))
        state.wait_for_everyone()
        records = []
        for network in recipe.networks:
            for method in recipe.methods:
                heard = say if state.is_main_process else lambda line: None
                stages = Stages(job, folder, network, method, names_of_run(network, method), progress, heard)
                records += list(_stages_in_order(stages, recipe, state.wait_for_everyone))
        results = run_results(recipe, records, time.perf_counter() - began)
    if folder.writes:
        with replacing(folder.path / MODEL) as temporary:
            shutil.copyfile(folder.model(_best_known(recipe)), temporary)
        write_report(results, folder.path / REPORT)
        folder.write_results(results)
    state.wait_for_everyone()
    return results


def _stages_in_order(stages: Stages, recipe: Recipe, wait: Callable[[], None]) -> Iterator[Record]:
    wait()
    for stop in course_of(recipe.phases_of(stages.method)):
        yield stages.done(stop)
        wait()


def run_results(recipe: Recipe, records: Sequence[Record], seconds: float) -> dict[str, Any]:
    """The content of ``results.json`` from what the stages recorded."""

    def key(row: dict[str, Any], *parts: str) -> str:
        return "/".join(str(row[part]) for part in ("network", "method", *parts) if row[part] is not None)

    rows = [record["row"] for record in records]
    return {
        "format": RESULTS_FORMAT,
        "name": recipe.name,
        "seed": recipe.training.seed,
        "environment": environment(),
        "recipe": recipe.model_dump(mode="json"),
        "seconds": round(seconds, 1),
        "stage_seconds": {key(r["row"], "stage", "budget"): round(r["seconds"], 1) for r in records},
        "rows": rows,
        "histories": {key(r["row"], "stage", "budget"): r["history"] for r in records if "history" in r},
        "flow_profiles": {key(r["row"]): r["flow"] for r in records if r.get("flow") is not None},
        "flow_coefficients": {key(r["row"]): r["coefficients"] for r in records if r.get("coefficients") is not None},
        "channels": {key(r["row"], "budget"): r["channels"] for r in records if "channels" in r},
        "plans": {key(r["row"], "budget"): r["plan"] for r in records if "plan" in r},
    }


def _best_known(recipe: Recipe) -> str:
    """Which model becomes ``model.fp``: of the first network, trained with the flow, cut by MACs if by anything, in its last
    stage.
    """
    method = "ffr" if "ffr" in recipe.methods else recipe.methods[0]
    name = names_of_run(recipe.networks[0], method)
    course = list(course_of(recipe.phases_of(method)))
    ends = [stop for stop in course if all(other.before is not stop for other in course)]
    end = next((stop for stop in ends if "macs=" in (stop.budgets or "")), ends[0])
    return name(end.stage, end.budgets)
