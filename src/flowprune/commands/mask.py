"""``flowprune mask``: a model in, an artifact out whose masked weights are zero for good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.known_names import refuse_unknown, refuse_unknown_method
from flowprune.commands.options import (
    OUTPUT,
    Allow,
    AsJson,
    Batches,
    BatchSize,
    DataDir,
    DataName,
    DataOption,
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
    share_or_count,
)
from flowprune.commands.step_options import Keep, LeftWhole, MaskName, MaskOption, ScoreName, WeightAllocator


def mask(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="The artifact to write.", rich_help_panel=OUTPUT)],
    mask: MaskName = "weight",
    mask_option: MaskOption = None,
    keep: Keep = None,
    score: ScoreName = "magnitude",
    allocator: WeightAllocator = None,
    ignore: LeftWhole = None,
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
    allow: Allow = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Set weights to zero for good and save the result."""
    check_free(out, overwrite)
    asked = share_or_count(keep)
    mask_options = key_values(mask_option, "--mask-option")
    refuse_unknown(model, builder=model_name, allocator=allocator, data=data, data_option=data_option)
    refuse_unknown_method("mask", "masks", mask)
    refuse_unknown_method("weight score", "importance.weight_scores", score)
    import torch

    from flowprune.artifacts import save
    from flowprune.commands.model_and_data import subject
    from flowprune.commands.terminal import print_json
    from flowprune.engine.steps import lineage_of
    from flowprune.methods.allocators import REGISTRY as ALLOCATORS
    from flowprune.methods.importance.weight_scores import REGISTRY as SCORES
    from flowprune.methods.masks import mask as masked

    torch.manual_seed(seed)
    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    looks = (SCORES[score], None if allocator is None else ALLOCATORS[allocator])
    needed = any(getattr(one, "needs_data", False) for one in looks)
    options = key_values(data_option, "--data-option")
    images = given.data(data, data_dir, options) if needed or data is not None else None
    x = images.example_input() if images is not None else given.example(input_shape)
    shown = list(images.batches("train", batch_size=batch_size, count=batches, seed=seed)) if images else None
    found = masked(
        given.model,
        x,
        mask=mask,
        weights=asked,
        score=score,
        allocator=allocator,
        batches=shown,
        ignore=ignore or (),
        **mask_options,
    )
    step = lineage_of(found).steps[-1].data
    save(found, out, notes=given.notes_on(x))
    if as_json:
        print_json({**step, "saved": out})
        return
    typer.echo(f"{mask} keeps {step['kept']:,} of {step['of']:,} weights ({100 * step['kept'] / step['of']:.2f} %)")
    typer.echo(f"saved: {out}")
