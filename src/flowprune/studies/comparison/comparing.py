"""The whole comparison in order: every cell through the pipeline's stages, then the table and the page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from flowprune.engine.allocation import KINDS
from flowprune.engine.measuring.number_of_threads import threads
from flowprune.errors import OutputError
from flowprune.models import check_name
from flowprune.reporting import environment
from flowprune.reporting.template import write_page
from flowprune.studies.comparison.cells import Cell, carried_out, cells_of, left_out, located, names_of_cell
from flowprune.studies.comparison.comparison_page import comparison_html
from flowprune.studies.comparison.comparison_recipe import ComparisonRecipe, comparison_recipe, load_comparison_recipe
from flowprune.studies.comparison.summary import summarised
from flowprune.studies.phases.criteria import importance_from
from flowprune.studies.pipeline.chosen_precision import as_begun, measured
from flowprune.studies.pipeline.job import Job, data_of
from flowprune.studies.pipeline.run import run_results
from flowprune.studies.pipeline.run_folder import COMPARISON, REPORT, RunFolder, write_json
from flowprune.studies.pipeline.stages import Stages
from flowprune.training import Data

COMPARISON_FORMAT = 1


def compare(
    recipe: ComparisonRecipe | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Cut one model by every method to every budget with every seed, fine-tune all alike, and set them side by side.

    Everything is checked before anything is trained. Killed at any moment, the comparison goes on with ``resume``: what is
    finished is kept, a training goes on from its last epoch.

    Args:
        recipe: what to compare; a file, a dictionary like the file's, or a ``ComparisonRecipe``.
        out: the folder. It receives ``results/METHOD-BUDGET-seedN.json`` (each as ``results.json`` of a run, the dense row first),
            ``comparison.json`` (the table) and ``report.html``, both anew after every cell, the models, and what a resumed
            comparison needs.
        data_dir: where data sets lie; else the environment variable FLOWPRUNE_DATA.
        resume: go on with the comparison in ``out`` (or begin it, if there is none).
        overwrite: remove the comparison in ``out`` first.
        progress: show bars on standard error.
        say: receives a line whenever a stage is finished.

    Returns:
        The content of ``comparison.json``: ``table`` (see ``summarised``), ``recipe``, ``environment``, ``seconds``, ``cells``
        (how many are finished, of how many).

    Raises:
        FlowpruneError: of a kind that says what is wrong: the recipe, the data, the model, a budget, the folder.

    Example:
        >>> import flowprune as fp
        >>> recipe = {
        ...     "network": {"name": "vgg6", "options": {"in_channels": 1, "width": 4}},
        ...     "data": {"name": "digits", "subset": 64},
        ...     "training": {"epochs": 1},
        ...     "methods": ["l2", "fpgm"],
        ...     "seeds": [0],
        ...     "pruning": {"budgets": [{"macs": 0.5}]},
        ...     "control": False,
        ...     "scratch": None,
        ... }
        >>> found = fp.compare(recipe, "comparison", progress=False)
        >>> [row["method"] for row in found["table"]]
        ['dense', 'l2', 'fpgm']
    """
    began = time.perf_counter()
    if isinstance(recipe, (str, Path)):
        recipe = load_comparison_recipe(recipe)
    elif isinstance(recipe, Mapping):
        recipe = comparison_recipe(recipe)
    state = Accelerator(mixed_precision="no")
    folder = RunFolder(out, writes=state.is_main_process)
    if resume:
        recipe = as_begun(recipe, folder)
    if folder.writes:
        folder.check(recipe, resume=resume, overwrite=overwrite)
    check_name(recipe.network.name)
    data = data_of(recipe.data, data_dir, recipe.seeds[0])
    cells = list(cells_of(recipe))
    with threads(recipe.threads):
        _check(recipe, data, state.device, data_dir)
        first = Job(recipe.run_recipe(recipe.seeds[0], None, None), data, state.device)
        network = located(recipe.network, data_dir)
        recipe, precision = measured(recipe, state, data, lambda: [first.build(network)])
        folder.claim(recipe, precision, resume=resume, overwrite=overwrite)
        if folder.writes and precision is not None:
            say(str(precision))
        state.wait_for_everyone()
        finished = []
        absent = left_out(recipe)
        for line in absent if state.is_main_process else ():
            say(f"left out: {line}")
        about = {
            "format": COMPARISON_FORMAT,
            "name": recipe.name,
            "environment": environment(),
            "recipe": recipe.model_dump(mode="json"),
            "left_out": absent,
        }
        for number, cell in enumerate(cells, start=1):
            heard = _counted(
                say if state.is_main_process else lambda line: None, f"[{number}/{len(cells)}, seed {cell.seed}] "
            )
            run = recipe.run_recipe(cell.seed, cell.method, cell.budget)
            names = names_of_cell(recipe, cell.seed, cell.label, cell.method, cell.budget)
            stages = Stages(Job(run, data, state.device), folder, network, cell.label, names, progress, heard)
            records = carried_out(cell, stages, recipe)
            results = run_results(run, records, sum(record["seconds"] for record in records))
            finished.append((cell, results))
            comparison = {
                **about,
                "seconds": round(time.perf_counter() - began, 1),
                "comparison": True,
                "cells": {"finished": number, "of": len(cells)},
                "table": [row.as_dict() for row in summarised(finished)],
            }
            if folder.writes:
                folder.write_cell(cell.name, {**results, "seed": cell.seed, "comparison": _described(cell)})
                write_page(comparison_html(comparison), folder.path / REPORT)
                write_json(folder.path / COMPARISON, comparison)
            state.wait_for_everyone()
    return comparison


def load_comparison(folder: str | Path) -> dict[str, Any]:
    """The content of a comparison's ``comparison.json``.

    Raises:
        OutputError: there is none, or it is not what ``compare`` writes.
    """
    path = Path(folder)
    path = path / COMPARISON if path.is_dir() else path
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != COMPARISON_FORMAT or not isinstance(content["table"], list):
            raise ValueError("of another format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path} is not what flowprune compare writes ({error})") from error
    return content


def _check(recipe: ComparisonRecipe, data: Data, device: Any, data_dir: str | Path | None) -> None:
    """Find out before any training what cannot work: every criterion's options, and every budget, by a cut of chance."""
    seed = recipe.seeds[0]
    networks = [located(recipe.network, data_dir)]
    criteria = [method for method in recipe.methods if method.preset is None]
    for method in criteria:
        section = method.criterion(seed)
        importance_from(section.name, section.options, list)
    cuts = [budget for budget in recipe.pruning.budgets if budget.kind in KINDS]
    whole = recipe.run_recipe(seed, criteria[0], cuts[0]) if criteria and cuts else recipe.run_recipe(seed, None, None)
    if whole.pruning is not None:
        whole = whole.model_copy(update={"pruning": whole.pruning.model_copy(update={"budgets": cuts})})
    runs = [whole]
    for cell in cells_of(recipe):
        if cell.seed == seed and cell.method is not None and cell.method.preset is not None:
            runs.append(recipe.run_recipe(seed, cell.method, cell.budget))
    for run in runs:
        Job(run.model_copy(update={"networks": networks}), data, device).check()


def _counted(say: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    return lambda line: say(prefix + line)


def _described(cell: Cell) -> dict[str, Any]:
    criterion = None
    if cell.method is not None and cell.method.preset is None:
        criterion = cell.method.criterion(cell.seed).model_dump(mode="json")
    return {
        "kind": cell.kind,
        "method": cell.label,
        "budget": None if cell.budget is None else str(cell.budget),
        "criterion": criterion,
        "preset": None if cell.method is None else cell.method.preset,
        "seed": cell.seed,
    }
