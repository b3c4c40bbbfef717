"""``flowprune report``: the table and the page of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.compare import show_comparison
from flowprune.commands.options import AsJson
from flowprune.commands.terminal import print_json, wide_console
from flowprune.errors import ArtifactError


def report(
    run_folder: Annotated[
        Path,
        typer.Argument(help="Folder of a finished run or of a comparison, or its results.json or comparison.json."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The page; report.html beside the results if left out.", show_default=False),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the table of a run or a comparison and write its page anew."""
    if not run_folder.exists():
        raise ArtifactError(
            f"{run_folder}: there is no such file; pass the folder of a finished run or its results.json"
        )
    from flowprune.studies.pipeline.run_folder import COMPARISON, REPORT

    page = out if out is not None else (run_folder if run_folder.is_dir() else run_folder.parent) / REPORT
    if run_folder.name == COMPARISON or (run_folder / COMPARISON).exists():
        from flowprune.reporting.template import write_page
        from flowprune.studies.comparison.comparing import load_comparison
        from flowprune.studies.comparison.comparison_page import comparison_html

        comparison = load_comparison(run_folder)
        write_page(comparison_html(comparison), page)
        print_json(comparison) if as_json else show_comparison(comparison, markdown=markdown)
    else:
        from flowprune.reporting import load_results, markdown_table, results_table, write_report

        results = load_results(run_folder)
        write_report(results, page)
        if as_json:
            print_json(results.model_dump(mode="json"))
        elif markdown:
            typer.echo(markdown_table(results), nl=False)
        else:
            wide_console(140).print(results_table(results))
    typer.echo(f"saved: {page}", err=True)
