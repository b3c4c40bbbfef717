"""``flowprune compare``: methods against one another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.interruption import can_go_on_with, resuming
from flowprune.commands.options import DataDir


def compare(
    recipe: Annotated[Path, typer.Argument(help="Recipe of the comparison (YAML).")],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a recipe's key, such as seeds=[0].", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder; runs/NAME if left out.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the comparison in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the comparison in --out first.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show nothing but the table.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Compare methods at equal budgets, data and training."""
    from flowprune.comparison.recipe import load_comparison_recipe

    read = load_comparison_recipe(recipe, changes or ())
    folder = out if out is not None else Path("runs") / read.name

    from rich.console import Console

    from flowprune.comparison.comparing import compare as compare_methods
    from flowprune.comparison.summary import markdown_table, terminal_table

    notes = Console(stderr=True, quiet=quiet, highlight=False)
    can_go_on_with(resuming("compare", recipe, changes or (), folder, data_dir))
    comparison = compare_methods(
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
    if markdown:
        typer.echo(markdown_table(comparison), nl=False)
    else:
        console = Console()
        (console if console.is_terminal else Console(width=160)).print(terminal_table(comparison))
    notes.print(f"{folder}: comparison.json, report.html, results/, models/, recipe.yaml", markup=False, soft_wrap=True)
