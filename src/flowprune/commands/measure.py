"""``flowprune measure``: what a model costs."""

from __future__ import annotations

from typing import Annotated

import typer

from flowprune.commands.options import Input, ModelName, ModelOption, Weights, key_values


def measure(
    model: Annotated[str, typer.Argument(help="An artifact, or the name of a model.")],
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    input_shape: Input = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count parameters, MACs, sparsity and dead filters."""
    import json

    from flowprune.commands.model_and_data import subject
    from flowprune.engine.measuring import measure as count
    from flowprune.studies.pipeline import measured

    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    x = given.example(input_shape)
    found = measured(given.model, x)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for layer in count(given.model, x).layers:
        output = "x".join(map(str, layer.output)) if layer.output else "-"
        typer.echo(f"{layer.layer:<32} {layer.kind:<14} {layer.params:>12,} {layer.macs:>16,} {output:>14}")
    typer.echo(
        f"parameters {found['params']:,}, MACs {found['macs']:,} an image of {'x'.join(map(str, x.shape[1:]))}, "
        f"sparsity {100 * found['sparsity']:.2f} %, dead filters {found['dead_filters']} of {found['filters']}"
    )
