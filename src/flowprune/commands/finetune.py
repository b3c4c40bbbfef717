"""``flowprune finetune``: train an artifact further."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.known_names import refuse_unknown
from flowprune.commands.options import (
    OUTPUT,
    AsJson,
    DataDir,
    DataName,
    DataOption,
    ModelArgument,
    ModelName,
    ModelOption,
    Overwrite,
    check_free,
    key_values,
)


def finetune(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="The artifact to write.", rich_help_panel=OUTPUT)],
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Passes over the training images.")] = 40,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate at the start; it falls as a cosine.")] = 0.01,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2, help="Images in a step.")] = 128,
    weight_decay: Annotated[float, typer.Option("--weight-decay", min=0)] = 5e-4,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other key of a recipe's training.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the order of the images.")] = 0,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    data: DataName = None,
    data_option: DataOption = None,
    data_dir: DataDir = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train an artifact again and save the result."""
    check_free(out, overwrite)
    from flowprune.studies.recipe_file import checked_sections
    from flowprune.training.settings import TrainingSettings

    chosen = {
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "weight_decay": weight_decay,
        "seed": seed,
        **key_values(setting, "--set"),
    }
    settings = checked_sections(TrainingSettings, chosen, "settings of the training")
    refuse_unknown(model, builder=model_name, data=data, data_option=data_option)
    from flowprune.artifacts import save
    from flowprune.commands.model_and_data import subject
    from flowprune.commands.terminal import print_json
    from flowprune.training import train

    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"))
    options = key_values(data_option, "--data-option")
    images = given.labelled_data(data, data_dir, options)
    result = train(given.model, images, settings, title="fine-tuning")
    notes = {**given.notes, "input": list(images.shape), "classes": images.classes, "top1": result.top1}
    if data is not None:
        notes["data"] = {"name": images.name, **{key: options.get(key) for key in ("normalize", "size")}}
    save(given.model, out, notes=notes)
    if as_json:
        print_json({"top1": result.top1, "epochs": epochs, "precision": result.precision, "saved": out})
        return
    after = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    typer.echo(f"top-1 {result.top1:.2f} % after {after} in {result.precision}\nsaved: {out}")
