"""``flowprune prune``: a model in, a smaller artifact out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.options import (
    DataDir,
    DataName,
    DataOption,
    Input,
    ModelName,
    ModelOption,
    Overwrite,
    Weights,
    check_free,
    key_values,
    share_or_count,
)


def prune(
    model: Annotated[str, typer.Argument(help="An artifact, or the name of a model (see `flowprune methods`).")],
    out: Annotated[Path, typer.Option("--out", help="The artifact to write.")],
    macs: Annotated[
        str | None, typer.Option("--macs", help="Keep this share (0.5) or count (60M) of the MACs.", show_default=False)
    ] = None,
    params: Annotated[
        str | None, typer.Option("--params", help="Keep this share or count of the parameters.", show_default=False)
    ] = None,
    channels: Annotated[
        float | None, typer.Option("--channels", help="Keep this share of every group.", show_default=False)
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Remove filters whose scale is below this share of the 90th percentile.",
            show_default=False,
        ),
    ] = None,
    importance: Annotated[str, typer.Option("--importance", help="What a channel is worth.")] = "l2",
    importance_option: Annotated[
        list[str] | None,
        typer.Option("--importance-option", help="Option of the importance, key=value.", show_default=False),
    ] = None,
    scope: Annotated[
        str, typer.Option("--scope", help="Rank channels globally, or take the same share everywhere (local).")
    ] = "global",
    largest_cut: Annotated[float, typer.Option("--largest-cut", help="At most this share of a group leaves.")] = 0.9,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="Module or pattern that stays as it is.", show_default=False)
    ] = None,
    batches: Annotated[
        int, typer.Option("--batches", min=1, help="Training batches a data-driven importance sees.")
    ] = 5,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images in each of them.")] = 128,
    seed: Annotated[int, typer.Option("--seed", help="Of a new model's weights, and of which images are seen.")] = 0,
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    data: DataName = None,
    data_option: DataOption = None,
    data_dir: DataDir = None,
    input_shape: Input = None,
    overwrite: Overwrite = False,
) -> None:
    """Cut a model to a budget and save what is left."""
    check_free(out, overwrite)
    import torch

    from flowprune.allocation import budget_from
    from flowprune.artifacts import save
    from flowprune.commands.subject import subject
    from flowprune.pipeline import importance_from
    from flowprune.pruning import plan
    from flowprune.pruning import prune as cut

    budget = {
        "macs": share_or_count(macs),
        "params": share_or_count(params),
        "channels": channels,
        "threshold": threshold,
        "scope": scope,
    }
    kind = budget_from(**budget).kind  # type: ignore[arg-type]
    torch.manual_seed(seed)
    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    images = None
    if data is not None or (input_shape is None and "data" in given.notes):
        images = given.data(data, data_dir, key_values(data_option, "--data-option"))
    criterion = None
    if kind != "threshold":
        criterion = importance_from(
            importance,
            key_values(importance_option, "--importance-option"),
            None
            if images is None
            else lambda: list(images.batches("train", batch_size=batch_size, count=batches, seed=seed)),
        )
    x = images.example_input() if images is not None else given.example(input_shape)
    made = plan(given.model, x, importance=criterion, largest_cut=largest_cut, ignore=ignore or (), **budget)  # type: ignore[arg-type]
    small = cut(given.model, made)
    notes = {**given.notes, "input": list(x.shape[1:])}
    notes.pop("top1", None)
    if data is not None and images is not None:
        options = key_values(data_option, "--data-option")
        notes["data"] = {"name": images.name, **{key: options.get(key) for key in ("normalize", "size")}}
    save(small, out, notes=notes)
    typer.echo(str(made))
    typer.echo(f"saved: {out}")
