"""``flowprune toy``: decision regions before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.known_names import complete_methods, refuse_unknown
from flowprune.commands.options import OUTPUT, AsJson, Overwrite, check_free, files_beside
from flowprune.commands.terminal import print_json, wide_console
from flowprune.errors import RecipeError, counted


def toy(
    out: Annotated[
        Path,
        typer.Option("--out", help="The page; the picture and a JSON file go beside it.", rich_help_panel=OUTPUT),
    ] = Path("toy.html"),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Draws of the reference points; the paper has 50.")] = 2,
    samples: Annotated[str, typer.Option("--samples", help="Reference points a class, separated by commas.")] = (
        "1,5,20,100"
    ),
    criterion: Annotated[
        list[str] | None,
        typer.Option(
            "--importance",
            help="Only this criterion; may be repeated.",
            show_default=False,
            autocompletion=complete_methods("importance"),
        ),
    ] = None,
    width: Annotated[int, typer.Option("--width", min=8, help="Units of each hidden layer.")] = 1000,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Prune a wide network on points in the plane, and picture what it decides."""
    try:
        counts = [int(part) for part in samples.split(",")]
    except ValueError:
        counts = [0]
    files = files_beside(out, ".png", ".json")
    for file in files:
        check_free(file, overwrite)
    for name in criterion or ():
        refuse_unknown(importance=name)
    from flowprune.studies.toy.experiment import EACH

    if not 1 <= min(counts) <= max(counts) <= EACH:
        raise RecipeError(f"--samples {samples!r}: write whole numbers from 1 to {EACH}, like 1,5,20")
    import base64
    import json

    import torch
    from rich.table import Table

    from flowprune.artifacts.atomic_write import replacing, write_text
    from flowprune.reporting import environment
    from flowprune.reporting.template import PagePicture, PageTable, summary_html, write_page
    from flowprune.studies.toy import toy_experiment
    from flowprune.studies.toy.picture import picture
    from flowprune.training.log_lines import LinesNowAndThen

    notes = LinesNowAndThen()
    with torch.random.fork_rng(devices=[]):
        result = toy_experiment(
            seeds=seeds,
            samples=counts,
            criteria=criterion,
            width=width,
            progress=notes.say,
        )
    drawn = picture(result)
    with replacing(files[1]) as temporary:
        temporary.write_bytes(drawn)
    content = {**result.as_dict(), "environment": environment()}
    write_text(files[2], json.dumps(content, indent=1) + "\n")
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
                f"Per cent, mean and deviation over {counted(seeds, 'draw')} of the reference points. Decisions kept: share of the "
                "pictured square whose class did not change, with the most reference points of the first draw.",
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
    if as_json:
        print_json(content)
        return
    table = Table(*result.headers(), box=None, pad_edge=False)
    for cells in result.rows():
        table.add_row(*cells)
    wide_console(140).print(table)
    for name, reason in result.left_out.items():
        typer.echo(f"left out: {name}: {reason}")
    typer.echo(f"saved: {', '.join(map(str, files))}")
