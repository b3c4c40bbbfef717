"""``flowprune explain``: which layers are coupled, and what is frozen."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flowprune.commands.options import Input, ModelName, ModelOption, Weights, key_values


def explain(
    model: Annotated[str, typer.Argument(help="An artifact, or the name of a model.")],
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    input_shape: Input = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="Module or pattern that stays as it is.", show_default=False)
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option("--freeze", metavar="NAME=DIMENSIONS", help="Dimensions that stay.", show_default=False),
    ] = None,
    flow: Annotated[bool, typer.Option("--flow", help="Show the points of the feature flow instead.")] = False,
) -> None:
    """Show which layers lose their channels together, and why others keep theirs."""
    from flowprune.commands.model_and_data import subject
    from flowprune.explanation import explain as explained

    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    if flow:
        from flowprune.methods.regularizers.feature_flow import FeatureFlow

        with FeatureFlow(given.model, inputs=given.example(input_shape)) as found:
            typer.echo(str(found))
        return
    options: dict[str, Any] = {"ignore": ignore or (), "freeze": key_values(freeze, "--freeze")}
    typer.echo(str(explained(given.model, given.example(input_shape), **options)))
