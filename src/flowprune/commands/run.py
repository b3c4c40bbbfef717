"""``flowprune run``: the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.jobs import Changes, Folder, Quiet, Remove, Resume, carry_out, check_folder
from flowprune.commands.known_names import complete_methods, refuse_unknown_in
from flowprune.commands.options import AsJson, DataDir, Device, Threads
from flowprune.commands.terminal import wide_console
from flowprune.errors import checked_name
from flowprune.methods import names_before_import


def run(
    recipe: Annotated[
        Path | None, typer.Argument(help="Recipe (YAML); a demonstration on digits if left out.", show_default=False)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="A system of `flowprune methods` in the place of the recipe's; its short form on digits without a recipe.",
            show_default=False,
            autocompletion=complete_methods("presets"),
        ),
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
    if method is not None:
        checked_name("method", method, names_before_import("presets"))
    if recipe is not None or method is None:
        refuse_unknown_in(recipe, changes or ())
    from flowprune.studies.recipe import load_recipe

    read = load_recipe(recipe, changes or (), method)
    if recipe is not None and method is not None and not quiet:
        say_what_is_missing(method)

    from flowprune.reporting import results_table
    from flowprune.studies.pipeline.run import run as run_job

    carry_out(
        run_job,
        read,
        again=("run", recipe, method, changes),
        out=out,
        data_dir=data_dir,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
        as_json=as_json,
        left="report.html to look at, results.json with every number, model.fp the pruned network, recipe.yaml to repeat it, "
        "models/ of every stage",
        show=lambda results: wide_console(140).print(results_table(results)),
    )


def say_what_is_missing(method: str) -> None:
    """One line on standard error for a system of whose published settings our loop lacks some."""
    from flowprune.methods.presets import REGISTRY

    lacks = REGISTRY[method].lacks if method in REGISTRY else []
    if lacks:
        typer.echo(f"{method}: not here: {'; '.join(lacks)}", err=True)
