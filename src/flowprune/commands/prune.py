"""``flowprune prune``: a model in, a smaller artifact out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flowprune.commands.cut_options import (
    AllocatorName,
    AllocatorOption,
    Backend,
    Branches,
    Channels,
    ChannelsOf,
    EveryBranch,
    Freeze,
    Heads,
    Ignore,
    LargestCut,
    LargestCutOf,
    Latency,
    Macs,
    Params,
    RoundTo,
    Scope,
    StepEpochs,
    StepLr,
    Steps,
    Threshold,
    width_multiple,
)
from flowprune.commands.known_names import refuse_unknown
from flowprune.commands.options import (
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
    Input,
    ModelArgument,
    ModelName,
    ModelOption,
    Overwrite,
    Seed,
    Threads,
    Weights,
    check_free,
    key_values,
    share,
    share_or_count,
    shares_of,
)
from flowprune.errors import BudgetError, DataError, RecipeError, counted


def prune(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="The artifact to write.", rich_help_panel=OUTPUT)],
    macs: Macs = None,
    params: Params = None,
    channels: Channels = None,
    channels_of: ChannelsOf = None,
    threshold: Threshold = None,
    latency: Latency = None,
    importance: ImportanceName = "l2",
    importance_option: ImportanceOption = None,
    allocator: AllocatorName = None,
    allocator_option: AllocatorOption = None,
    scope: Scope = "global",
    largest_cut: LargestCut = "0.9",
    largest_cut_of: LargestCutOf = None,
    round_to: RoundTo = "1",
    backend: Backend = "pytorch",
    heads: Heads = "whole",
    ignore: Ignore = None,
    freeze: Freeze = None,
    branches: Branches = False,
    every_branch: EveryBranch = False,
    steps: Steps = 1,
    step_epochs: StepEpochs = 1,
    step_lr: StepLr = 0.01,
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
    input_shape: Input = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy/--no-accuracy", help="Say top-1 before and after, where there is data.")
    ] = True,
    device: Device = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Cut a model to a budget and save what is left."""
    check_free(out, overwrite)
    asked = {
        "macs": share_or_count(macs),
        "params": share_or_count(params),
        "channels": _by_layer(share(channels, "--channels"), channels_of, "channels"),
        "threshold": share(threshold, "--threshold"),
        "latency": share_or_count(latency),
        "scope": scope,
        "largest_cut": _by_layer(share(largest_cut, "--largest-cut"), largest_cut_of, "largest-cut"),
        "round_to": width_multiple(round_to),
        "backend": backend,
        "heads": heads,
        "ignore": ignore or (),
        "freeze": key_values(freeze, "--freeze"),
        "branches": "always" if every_branch else branches,
        "allocator": allocator,
    }
    if allocator_option and allocator is None:
        raise RecipeError("--allocator-option is for an allocator; name one with --allocator")
    if sum(asked[kind] is not None for kind in ("macs", "params", "channels", "threshold", "latency")) != 1:
        raise BudgetError(
            "a cut needs exactly one budget: --macs, --params, --channels (or --channels-of), --threshold or --latency"
        )
    names = {"builder": model_name, "importance": importance, "allocator": allocator, "data": data}
    refuse_unknown(model, **names, data_option=data_option)
    from dataclasses import replace

    import torch

    from flowprune.artifacts import save
    from flowprune.commands.model_and_data import here, needs_data, subject
    from flowprune.commands.terminal import print_json
    from flowprune.engine.planning import Request
    from flowprune.methods.allocators import REGISTRY as ALLOCATORS
    from flowprune.pruning import plan_as_asked
    from flowprune.pruning import prune as cut
    from flowprune.studies.phases.cuts_in_steps import prune_with_training, training_between
    from flowprune.studies.pipeline import importance_from
    from flowprune.studies.recipe_file import checked_sections
    from flowprune.training import TrainingSettings, evaluate

    request = Request.of(**asked)
    torch.manual_seed(seed)
    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    options = key_values(data_option, "--data-option")
    needed = (
        data is not None
        or (request.budget.kind != "threshold" and needs_data(importance))
        or (allocator is not None and getattr(ALLOCATORS[allocator], "needs_data", False))
        or (steps > 1 and step_epochs > 0)
    )
    images = given.data_if_there(data, data_dir, options, needed=needed, wanted=input_shape is None)
    shown = (lambda: list(images.batches("train", batch_size=batch_size, count=batches, seed=seed))) if images else None
    if request.budget.kind != "threshold":
        criterion = importance_from(importance, key_values(importance_option, "--importance-option"), shown)
        request = replace(request, importance=criterion)
    if allocator is not None:
        request = replace(
            request,
            allocator=ALLOCATORS.built(allocator, key_values(allocator_option, "--allocator-option"), shown),
        )
    x = images.example_input() if images is not None else given.example(input_shape)
    if steps > 1:
        if images is None and step_epochs > 0:
            raise DataError(
                "the training between --steps needs a data set: name one with --data, or --step-epochs 0 leaves it out"
            )
        finetune = training_between(
            steps=steps,
            settings=checked_sections(
                TrainingSettings,
                {"epochs": step_epochs, "lr": step_lr, "batch_size": max(2, batch_size), "seed": seed},
                "training between --steps",
            ),
            data=images,
            run_folder=lambda step: None,
            title="between cuts",
            progress=True,
        )
        small, made = prune_with_training(given.model, x, request, steps, finetune)
    else:
        made = plan_as_asked(given.model, x, request)
        small = cut(given.model, made)
    accuracies = None
    if images is not None and accuracy and given.gives_logits_of(images):
        accuracies = [evaluate(network.to(here()), images).top1 for network in (given.model, small)]
    found = {} if accuracies is None else {"top1": accuracies[1]}
    save(small, out, notes={**given.notes_on(x, images, data, options), **found})
    if as_json:
        print_json({**made.summary(), "top1": accuracies, "saved": out})
        return
    typer.echo(str(made))
    if accuracies is not None and images is not None:
        typer.echo(
            f"top-1 {accuracies[0]:.2f} % before, {accuracies[1]:.2f} % right after the cut; "
            f"{counted(len(images.test), 'test image')} of {images.name}"
        )
    typer.echo(f"saved: {out}")


def _by_layer(whole: float | None, of: list[str] | None, option: str) -> Any:
    """A share for all layers, or with ``--...-of`` for those that are named."""
    if not of:
        return whole
    shares = shares_of(of, f"--{option}-of")
    if option == "channels" and whole is not None:
        raise BudgetError(
            'give --channels for all layers or --channels-of for some, not both; --channels-of "*=0.5" comes last'
        )
    return shares if whole is None or "*" in shares else {**shares, "*": whole}
