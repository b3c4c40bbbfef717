"""``flowprune run``: the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.interruption import can_go_on_with, resuming
from flowprune.commands.options import DataDir


def run(
    recipe: Annotated[
        Path | None, typer.Argument(help="Recipe (YAML); a demonstration on digits if left out.", show_default=False)
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a recipe's key, such as training.epochs=5.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; runs/NAME if left out.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the run in --out first.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show nothing but the table.")] = False,
) -> None:
    """Train with FFR, prune, fine-tune, measure, report."""
    from flowprune.recipe import load_recipe

    read = load_recipe(recipe, changes or ())
    folder = out if out is not None else Path("runs") / read.name

    from rich.console import Console

    from flowprune.pipeline.run import run as run_job
    from flowprune.reporting import results_table

    notes = Console(stderr=True, quiet=quiet, highlight=False)
    can_go_on_with(resuming("run", recipe, changes or (), folder, data_dir))
    results = run_job(
        read,
        folder,
        data_dir=data_dir,
        resume=resume,
        overwrite=overwrite,
        progress=not quiet and notes.is_terminal,
        say=lambda line: notes.print(line, markup=False, soft_wrap=True),
    )
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    console = Console()
    if not console.is_terminal:
        # A pipe has no width; what reads it should get whole lines.
        console = Console(width=140)
    console.print(results_table(results))
    notes.print(f"{folder}: results.json, report.html, model.fp, recipe.yaml, models/", markup=False, soft_wrap=True)
