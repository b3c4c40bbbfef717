"""``flowprune explain``: which layers are coupled, and what is frozen."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flowprune.commands.known_names import refuse_unknown
from flowprune.commands.options import Allow, AsJson, Input, ModelArgument, ModelName, ModelOption, Weights, key_values


def explain(
    model: ModelArgument,
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    allow: Allow = None,
    input_shape: Input = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="Module or pattern that stays as it is.", show_default=False)
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option("--freeze", metavar="NAME=DIMENSIONS", help="Dimensions that stay.", show_default=False),
    ] = None,
    flow: Annotated[bool, typer.Option("--flow", help="Show the points of the feature flow instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show which layers lose their channels together, and why others keep theirs."""
    refuse_unknown(model, builder=model_name)
    from dataclasses import asdict

    from flowprune.commands.model_and_data import subject
    from flowprune.commands.terminal import print_json
    from flowprune.explanation import explain as explained

    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    if flow:
        from flowprune.methods.regularizers.feature_flow import FeatureFlow

        with FeatureFlow(given.model, inputs=given.example(input_shape)) as found:
            print_json(str(found).splitlines()) if as_json else typer.echo(str(found))
        return
    options: dict[str, Any] = {"ignore": ignore or (), "freeze": key_values(freeze, "--freeze")}
    explanation = explained(given.model, given.example(input_shape), **options)
    print_json(asdict(explanation)) if as_json else typer.echo(str(explanation))
