"""What the jobs from a recipe (``run``, ``compare``) share: their options, and how they are carried out into a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from flowprune.commands.interruption import can_go_on_with, resuming
from flowprune.commands.options import OUTPUT, pairs
from flowprune.commands.terminal import print_json
from flowprune.errors import OutputError

Changes = Annotated[list[str] | None, pairs("--set", "Change a recipe's key, such as training.epochs=5")]
Folder = Annotated[
    Path | None,
    typer.Option("--out", help="Folder; runs/NAME if left out.", show_default=False, rich_help_panel=OUTPUT),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.", rich_help_panel=OUTPUT)]
Remove = Annotated[
    bool, typer.Option("--overwrite", help="Remove what an earlier one left in --out first.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show nothing but the table.", rich_help_panel=OUTPUT)]


def carry_out(
    job: Callable[..., dict[str, Any]],
    read: Any,
    *,
    again: tuple[str, Path | None, str | None, list[str] | None],
    out: Path | None,
    data_dir: Path | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    left: str,
    show: Callable[[dict[str, Any]], None],
    as_json: bool = False,
) -> None:
    """Do the job and show its results, in the process that speaks for all.

    Args:
        job: ``pipeline.run.run``, ``comparison.compare`` or one like them.
        read: its recipe.
        again: the command's name, and the recipe's file, the method and the changes as given: how an interrupted one is taken up.
        out: the folder; runs/NAME if None.
        data_dir, resume, overwrite: for the job.
        quiet: whether to say nothing on the way.
        left: what the folder holds in the end.
        show: prints the table.
        as_json: print the results as JSON instead.
    """
    from accelerate import PartialState
    from rich.console import Console

    folder = out if out is not None else Path("runs") / read.name
    notes = Console(stderr=True, quiet=quiet, highlight=False)
    command, recipe, method, changes = again
    can_go_on_with(resuming(command, recipe, method, changes or (), folder, data_dir))
    results = job(
        read,
        folder,
        data_dir=data_dir,
        resume=resume,
        overwrite=overwrite,
        progress=not quiet,
        say=lambda line: notes.print(line, markup=False, soft_wrap=True),
    )
    if PartialState().is_main_process:
        print_json(results) if as_json else show(results)
        notes.print(f"{folder}: {left}", markup=False, soft_wrap=True)


def check_folder(out: Path | None, resume: bool, overwrite: bool) -> None:
    """Raise an ``OutputError`` for a folder that cannot be used so, as far as that is known without reading the recipe."""
    if resume and overwrite:
        raise OutputError("--resume keeps what is there, --overwrite removes it; use one of them")
    if out is None or not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"{out} is a file; name another folder with --out")
    if not resume and not overwrite and any(out.iterdir()):
        raise OutputError(f"{out} is not empty; --resume goes on with the run in it, --overwrite removes it")
