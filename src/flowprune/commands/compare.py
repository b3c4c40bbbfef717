"""``flowprune compare``: methods against one another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from flowprune.commands.jobs import Changes, Folder, Quiet, Remove, Resume, carry_out, check_folder
from flowprune.commands.known_names import refuse_unknown_in
from flowprune.commands.options import AsJson, DataDir, Device, Threads
from flowprune.commands.terminal import wide_console


def compare(
    recipe: Annotated[Path, typer.Argument(help="Recipe of the comparison (YAML).")],
    changes: Changes = None,
    out: Folder = None,
    data_dir: DataDir = None,
    resume: Resume = False,
    overwrite: Remove = False,
    quiet: Quiet = False,
    device: Device = None,
    threads: Threads = None,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Compare methods at equal budgets, data and training."""
    check_folder(out, resume, overwrite)
    refuse_unknown_in(recipe, changes or ())
    from flowprune.studies.comparison.comparison_recipe import load_comparison_recipe

    read = load_comparison_recipe(recipe, changes or ())

    from flowprune.studies.comparison.comparing import compare as compare_methods

    carry_out(
        compare_methods,
        read,
        again=("compare", recipe, None, changes),
        out=out,
        data_dir=data_dir,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
        as_json=as_json,
        left="comparison.json, report.html, results/, models/, recipe.yaml",
        show=partial(show_comparison, markdown=markdown),
    )


def show_comparison(comparison: dict[str, Any], *, markdown: bool) -> None:
    """Print the table of a comparison, the content of its ``comparison.json``."""
    from flowprune.studies.comparison.summary import markdown_table, terminal_table

    if markdown:
        typer.echo(markdown_table(comparison), nl=False)
    else:
        wide_console(160).print(terminal_table(comparison))
