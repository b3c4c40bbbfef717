"""``flowprune sensitivity``: what each coupled group costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.known_names import refuse_unknown
from flowprune.commands.options import (
    DATA,
    OUTPUT,
    Allow,
    AsJson,
    Batches,
    BatchSize,
    DataDir,
    DataName,
    DataOption,
    Device,
    ImportanceName,
    ImportanceOption,
    ModelArgument,
    ModelName,
    ModelOption,
    Overwrite,
    Seed,
    Split,
    Threads,
    Weights,
    check_free,
    files_beside,
    key_values,
    share,
)
from flowprune.errors import BudgetError, RecipeError, counted


def sensitivity(
    model: ModelArgument,
    out: Annotated[
        Path, typer.Option("--out", help="The page to write; a JSON file goes beside it.", rich_help_panel=OUTPUT)
    ] = Path("sensitivity.html"),
    shares: Annotated[str, typer.Option("--shares", help="Shares to remove, separated by commas.")] = (
        "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"
    ),
    split: Annotated[
        Split,
        typer.Option("--split", help="Images the accuracy is measured on; train unaugmented.", rich_help_panel=DATA),
    ] = "train",
    images: Annotated[
        int, typer.Option("--images", min=1, help="So many of them, drawn by --seed.", rich_help_panel=DATA)
    ] = 2000,
    drop: Annotated[
        float | None,
        typer.Option(
            "--drop", help="Print the shares to keep if each group alone may cost so many points.", show_default=False
        ),
    ] = None,
    importance: ImportanceName = "l2",
    importance_option: ImportanceOption = None,
    batches: Batches = 5,
    batch_size: BatchSize = 128,
    seed: Seed = 0,
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    allow: Allow = None,
    data: DataName = None,
    data_option: DataOption = None,
    data_dir: DataDir = None,
    overwrite: Overwrite = False,
    device: Device = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure accuracy against the share removed, group by group."""
    removed = _shares(shares)
    if drop is not None and not drop >= 0:
        raise RecipeError(f"--drop {drop}: use a number of points from 0 on")
    _, record = files = files_beside(out, ".json")
    for file in files:
        check_free(file, overwrite)
    refuse_unknown(model, builder=model_name, importance=importance, data=data, data_option=data_option)
    import json
    from dataclasses import replace

    import torch

    from flowprune.artifacts.atomic_write import write_text
    from flowprune.commands.model_and_data import here, subject
    from flowprune.commands.terminal import print_json
    from flowprune.reporting import environment
    from flowprune.reporting.template import write_page
    from flowprune.studies.pipeline import importance_from
    from flowprune.studies.sensitivity import sensitivity as scan
    from flowprune.studies.sensitivity.sensitivity_page import sensitivity_html
    from flowprune.training import evaluate
    from flowprune.training.progress import TrainingProgress
    from flowprune.training.splits import drawn

    torch.manual_seed(seed)
    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    whole = given.labelled_data(data, data_dir, key_values(data_option, "--data-option"))
    chosen = whole.train if split == "train" else whole.test
    count = min(images, len(chosen))
    seen = replace(whole, test=drawn(chosen, count, seed))
    criterion = importance_from(
        importance,
        key_values(importance_option, "--importance-option"),
        lambda: list(whole.batches("train", batch_size=batch_size, count=batches, seed=seed)),
    )
    place = here()
    with TrainingProgress("cuts", 1, 0, True) as bar:
        found = scan(
            given.model.to(place),
            whole.example_input().to(place),
            lambda small: evaluate(small, seen).top1,
            importance=criterion,
            shares=removed,
            progress=lambda done, cuts, group: bar.at(done, cuts, group),
        )
    half = "training" if split == "train" else "test"
    lead = f"Top-1 in per cent on {counted(count, f'{half} image')} of {whole.name}."
    about = {"model": model, "data": whole.name, "split": split, "images": count, "seed": seed}
    content = {**about, **found.as_dict(), "environment": environment()}
    if drop is not None:
        content["allocation"] = {"drop": drop, "channels": found.allocation(drop)}
    write_text(record, json.dumps(content, indent=1) + "\n")
    write_page(sensitivity_html(found, f"{model}: sensitivity of coupled groups", lead, environment()), out)
    if as_json:
        print_json(content)
        return
    typer.echo(str(found))
    if drop is not None:
        typer.echo(f"channels to keep, if each group alone may cost {counted(drop, 'point')}:")
        for name, share in content["allocation"]["channels"].items():
            typer.echo(f"  --channels-of {name}={share!r}")  # in full: rounded down it would be a channel less
        typer.echo(f"cut so by: flowprune prune MODEL --importance {importance} --largest-cut 1, with these options")
    typer.echo(f"saved: {out}, {record}")


def _shares(text: str) -> list[float]:
    try:
        found = [share(part, "--shares") or 0.0 for part in text.split(",")]
    except BudgetError:
        found = []
    if not found or not all(0 < share < 1 for share in found):
        raise RecipeError(f"--shares {text!r}: write shares to remove like 0.2,0.5,0.8 (above 0 and below 1)")
    return found
