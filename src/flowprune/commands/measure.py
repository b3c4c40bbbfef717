"""``flowprune measure``: what a model costs."""

from __future__ import annotations

import typer

from flowprune.commands.known_names import refuse_unknown
from flowprune.commands.options import AsJson, Input, ModelArgument, ModelName, ModelOption, Weights, key_values


def measure(
    model: ModelArgument,
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    input_shape: Input = None,
    as_json: AsJson = False,
) -> None:
    """Count parameters, MACs and bytes, and what of them is idle: zero weights, dead filters."""
    refuse_unknown(model, builder=model_name)
    from flowprune.commands.model_and_data import subject
    from flowprune.commands.terminal import print_json
    from flowprune.methods.codecs import measure as count
    from flowprune.studies.pipeline import measured

    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    x = given.example(input_shape)
    cost, found = count(given.model, x), measured(given.model, x)
    counted = ("effective_macs", "nonzero", "bytes", "stored_bytes")
    found |= {key: getattr(cost, key) for key in counted}
    if as_json:
        print_json(found)
        return
    for layer in cost.layers:
        output = "x".join(map(str, layer.output)) if layer.output else "-"
        typer.echo(f"{layer.layer:<32} {layer.kind:<14} {layer.params:>12,} {layer.macs:>16,} {output:>14}")
    typer.echo(
        f"parameters {cost.params:,} ({cost.nonzero:,} not zero), MACs {cost.macs:,} an image of "
        f"{'x'.join(map(str, x.shape[1:]))} ({cost.effective_macs:,} effective), bytes {cost.bytes:,} "
        f"({cost.stored_bytes:,} stored), sparsity {100 * found['sparsity']:.2f} %, "
        f"dead filters {found['dead_filters']} of {found['filters']}"
    )
