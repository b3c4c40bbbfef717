"""``flowprune prune``: a model in, a smaller artifact out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flowprune.commands.options import (
    Batches,
    BatchSize,
    DataDir,
    DataName,
    DataOption,
    ImportanceOption,
    Input,
    ModelName,
    ModelOption,
    Overwrite,
    Seed,
    Weights,
    check_free,
    key_values,
    share_or_count,
)
from flowprune.errors import BudgetError, DataError


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
    latency: Annotated[
        str | None,
        typer.Option(
            "--latency", help="Keep this share (0.7) of a forward's time here, or this time (4ms).", show_default=False
        ),
    ] = None,
    channels_of: Annotated[
        list[str] | None,
        typer.Option(
            "--channels-of",
            metavar="LAYER=SHARE",
            help="Keep this share of a layer's or pattern's channels; all others stay. May be repeated.",
            show_default=False,
        ),
    ] = None,
    importance: Annotated[str, typer.Option("--importance", help="What a channel is worth.")] = "l2",
    importance_option: ImportanceOption = None,
    scope: Annotated[
        str, typer.Option("--scope", help="Rank channels globally, or take the same share everywhere (local).")
    ] = "global",
    largest_cut: Annotated[float, typer.Option("--largest-cut", help="At most this share of a group leaves.")] = 0.9,
    heads: Annotated[
        str, typer.Option("--heads", help="Attention loses whole heads, channels inside each, or both.")
    ] = "whole",
    largest_cut_of: Annotated[
        list[str] | None,
        typer.Option(
            "--largest-cut-of",
            metavar="LAYER=SHARE",
            help="At most this share of a layer or pattern leaves. May be repeated.",
            show_default=False,
        ),
    ] = None,
    round_to: Annotated[
        int, typer.Option("--round-to", help="Widths become the nearest multiple of this, such as 8.")
    ] = 1,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Cut in this many steps, with training between them.")
    ] = 1,
    step_epochs: Annotated[int, typer.Option("--step-epochs", min=0, help="Epochs of training between two steps.")] = 1,
    step_lr: Annotated[float, typer.Option("--step-lr", help="Learning rate of that training.")] = 0.01,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            "--freeze",
            metavar="NAME=DIMENSIONS",
            help="Dimensions of a parameter, module or pattern that stay, such as conv1.weight=[0].",
            show_default=False,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="Module or pattern that stays as it is.", show_default=False)
    ] = None,
    branches: Annotated[
        bool, typer.Option("--branches", help="Remove dead ends of residual branches, too, where that saves time.")
    ] = False,
    every_branch: Annotated[
        bool, typer.Option("--every-branch", help="As --branches, also where the index costs more than it saves.")
    ] = False,
    batches: Batches = 5,
    batch_size: BatchSize = 128,
    seed: Seed = 0,
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
    import sys
    from dataclasses import replace

    import torch

    from flowprune.artifacts import save
    from flowprune.commands.model_and_data import subject
    from flowprune.engine.planning import Request
    from flowprune.methods.importance import REGISTRY
    from flowprune.pruning import plan_as_asked
    from flowprune.pruning import prune as cut
    from flowprune.studies.phases.cuts_in_steps import prune_with_training
    from flowprune.studies.pipeline import importance_from
    from flowprune.studies.recipe_file import checked_sections
    from flowprune.training import TrainingSettings

    request = Request.of(
        macs=share_or_count(macs),
        params=share_or_count(params),
        channels=_by_layer(channels, channels_of, "channels"),
        threshold=threshold,
        latency=share_or_count(latency),
        scope=scope,
        largest_cut=_by_layer(largest_cut, largest_cut_of, "largest-cut"),
        round_to=round_to,
        heads=heads,
        ignore=ignore or (),
        freeze=key_values(freeze, "--freeze"),
        branches="always" if every_branch else branches,
    )
    REGISTRY[importance]  # refuses an unknown one, also where a threshold needs none
    torch.manual_seed(seed)
    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    images = None
    if data is not None or (input_shape is None and "data" in given.notes):
        images = given.data(data, data_dir, key_values(data_option, "--data-option"))
    if request.budget.kind != "threshold":
        criterion = importance_from(
            importance,
            key_values(importance_option, "--importance-option"),
            None
            if images is None
            else lambda: list(images.batches("train", batch_size=batch_size, count=batches, seed=seed)),
        )
        request = replace(request, importance=criterion)
    x = images.example_input() if images is not None else given.example(input_shape)
    if steps > 1:
        if images is None and step_epochs > 0:
            raise DataError(
                "the training between --steps needs a data set: name one with --data, or --step-epochs 0 leaves it out"
            )
        small, made = prune_with_training(
            given.model,
            x,
            request,
            steps=steps,
            settings=checked_sections(
                TrainingSettings,
                {"epochs": step_epochs, "lr": step_lr, "batch_size": max(2, batch_size), "seed": seed},
                "training between --steps",
            ),
            data=images,
            run_folder=lambda step: None,
            title="between cuts",
            progress=sys.stderr.isatty(),
        )
    else:
        made = plan_as_asked(given.model, x, request)
        small = cut(given.model, made)
    notes = {**given.notes, "input": list(x.shape[1:])}
    notes.pop("top1", None)
    if data is not None and images is not None:
        options = key_values(data_option, "--data-option")
        notes["data"] = {"name": images.name, **{key: options.get(key) for key in ("normalize", "size")}}
    save(small, out, notes=notes)
    typer.echo(str(made))
    typer.echo(f"saved: {out}")


def _by_layer(share: float | None, of: list[str] | None, option: str) -> Any:
    """A share for all layers, or with ``--...-of`` for those that are named."""
    if not of:
        return share
    shares = key_values(of, f"--{option}-of")
    if option == "channels" and share is not None:
        raise BudgetError(
            'give --channels for all layers or --channels-of for some, not both; --channels-of "*=0.5" comes last'
        )
    return shares if share is None or "*" in shares else {**shares, "*": share}
