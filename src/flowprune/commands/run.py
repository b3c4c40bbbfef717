"""``flowprune run``: the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.jobs import Changes, Folder, Quiet, Remove, Resume, carry_out, check_folder
from flowprune.commands.options import AsJson, DataDir, Device, Threads
from flowprune.commands.terminal import wide_console


def run(
    recipe: Annotated[
        Path | None, typer.Argument(help="Recipe (YAML); a demonstration on digits if left out.", show_default=False)
    ] = None,
    changes: Changes = None,
    out: Folder = None,
    data_dir: DataDir = None,
    resume: Resume = False,
    overwrite: Remove = False,
    quiet: Quiet = False,
    device: Device = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train with FFR, prune, fine-tune, measure, report."""
    check_folder(out, resume, overwrite)
    from flowprune.studies.recipe import load_recipe

    read = load_recipe(recipe, changes or ())

    from flowprune.reporting import results_table
    from flowprune.studies.pipeline.run import run as run_job

    carry_out(
        run_job,
        read,
        again=("run", recipe, changes),
        out=out,
        data_dir=data_dir,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
        as_json=as_json,
        left="results.json, report.html, model.fp, recipe.yaml, models/",
        show=lambda results: wide_console(140).print(results_table(results)),
    )
