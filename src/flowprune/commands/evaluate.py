"""``flowprune evaluate``: how good a model is."""

from __future__ import annotations

from flowprune.commands.known_names import refuse_unknown
from flowprune.commands.options import (
    Allow,
    AsJson,
    DataDir,
    DataName,
    DataOption,
    Device,
    ModelArgument,
    ModelName,
    ModelOption,
    Threads,
    Weights,
    key_values,
)
from flowprune.errors import counted


def evaluate(
    model: ModelArgument,
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    allow: Allow = None,
    data: DataName = None,
    data_option: DataOption = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure top-1 on the test images."""
    refuse_unknown(model, builder=model_name, data=data, data_option=data_option)
    from dataclasses import asdict

    import typer

    from flowprune.commands.model_and_data import here, subject
    from flowprune.commands.terminal import print_json
    from flowprune.training import evaluate as evaluate_on

    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    images = given.labelled_data(data, data_dir, key_values(data_option, "--data-option"))
    found = evaluate_on(given.model.to(here()), images)
    if as_json:
        print_json({**asdict(found), "data": images.name})
        return
    typer.echo(
        f"top-1 {found.top1:.2f} %, loss {found.loss:.4f}, {counted(found.images, 'test image')} of {images.name}"
    )
