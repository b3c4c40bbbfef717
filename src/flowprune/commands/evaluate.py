"""``flowprune evaluate``: how good a model is."""

from __future__ import annotations

from typing import Annotated

import typer

from flowprune.commands.options import DataDir, DataName, DataOption, ModelName, ModelOption, Weights, key_values


def evaluate(
    model: Annotated[str, typer.Argument(help="An artifact, or the name of a model.")],
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    data: DataName = None,
    data_option: DataOption = None,
    data_dir: DataDir = None,
) -> None:
    """Measure top-1 on the test images."""
    from accelerate import PartialState

    from flowprune.commands.model_and_data import subject
    from flowprune.training import evaluate as evaluate_on

    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    images = given.labelled_data(data, data_dir, key_values(data_option, "--data-option"))
    found = evaluate_on(given.model.to(PartialState().device), images)
    typer.echo(f"top-1 {found.top1:.2f} %, loss {found.loss:.4f}, {found.images} test images of {images.name}")
