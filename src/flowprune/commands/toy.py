"""``flowprune toy``: decision regions before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.options import Overwrite, check_free, files_beside
from flowprune.commands.terminal import wide_console
from flowprune.errors import RecipeError


def toy(
    out: Annotated[Path, typer.Option("--out", help="The page; the picture and a JSON file go beside it.")] = Path(
        "toy.html"
    ),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Draws of the reference points; the paper has 50.")] = 2,
    samples: Annotated[str, typer.Option("--samples", help="Reference points a class, separated by commas.")] = (
        "1,5,20,100"
    ),
    criterion: Annotated[
        list[str] | None,
        typer.Option("--importance", help="Only this criterion; may be repeated.", show_default=False),
    ] = None,
    width: Annotated[int, typer.Option("--width", min=8, help="Units of each hidden layer.")] = 1000,
    overwrite: Overwrite = False,
) -> None:
    """Prune a wide network on points in the plane, and picture what it decides."""
    try:
        counts = [int(part) for part in samples.split(",")]
    except ValueError:
        counts = [0]
    from flowprune.studies.toy.experiment import EACH

    if not 1 <= min(counts) <= max(counts) <= EACH:
        raise RecipeError(f"--samples {samples!r}: write whole numbers from 1 to {EACH}, like 1,5,20")
    files = files_beside(out, ".png", ".json")
    for file in files:
        check_free(file, overwrite)
    import base64
    import json
    import sys

    import torch
    from rich.console import Console
    from rich.table import Table

    from flowprune.artifacts.atomic_write import replacing, write_text
    from flowprune.reporting import environment
    from flowprune.reporting.template import PagePicture, PageTable, summary_html, write_page
    from flowprune.studies.toy import toy_experiment
    from flowprune.studies.toy.picture import picture

    notes = Console(stderr=True, highlight=False, quiet=not sys.stderr.isatty())
    with torch.random.fork_rng(devices=[]):
        result = toy_experiment(
            seeds=seeds,
            samples=counts,
            criteria=criterion,
            width=width,
            progress=lambda line: notes.print(line, markup=False),
        )
    drawn = picture(result)
    with replacing(files[1]) as temporary:
        temporary.write_bytes(drawn)
    write_text(files[2], json.dumps({**result.as_dict(), "environment": environment()}, indent=1) + "\n")
    lead = (
        f"{result.removed} of {result.units} hidden units removed at once, ranked globally, without fine-tuning; the accuracy of "
        "what is left on fresh points."
    )
    page = summary_html(
        "Decision regions before and after pruning",
        lead,
        tables=[
            PageTable(
                "table",
                "Accuracy after, by reference points a class",
                f"Per cent, mean and deviation over {seeds} draws of the reference points. Decisions kept: share of the pictured "
                "square whose class did not change, with the most reference points of the first draw.",
                result.headers(),
                result.rows(),
                2,
            )
        ],
        pictures=[
            PagePicture(
                "regions",
                "Decision regions",
                "With the most reference points of the first draw.",
                "data:image/png;base64," + base64.b64encode(drawn).decode("ascii"),
            )
        ],
        environment=environment(),
    )
    write_page(page, files[0])
    table = Table(*result.headers(), box=None, pad_edge=False)
    for cells in result.rows():
        table.add_row(*cells)
    wide_console(140).print(table)
    for name, reason in result.left_out.items():
        typer.echo(f"left out: {name}: {reason}")
    typer.echo(f"saved: {', '.join(map(str, files))}")
