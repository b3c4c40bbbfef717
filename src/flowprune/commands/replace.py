"""``flowprune replace``: a model in, an artifact out with other modules in the places of some; or with plain ones again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.known_names import refuse_unknown, refuse_unknown_method
from flowprune.commands.options import (
    OUTPUT,
    Allow,
    AsJson,
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
)
from flowprune.commands.step_options import METHOD, Modules, ReplacementName, ReplacementOption
from flowprune.errors import RecipeError


def replace(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="The artifact to write.", rich_help_panel=OUTPUT)],
    replacement: ReplacementName = "linear_expansion",
    replacement_option: ReplacementOption = None,
    module: Modules = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="Put plain modules back instead.", rich_help_panel=METHOD)
    ] = False,
    seed: Seed = 0,
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    input_shape: Input = None,
    allow: Allow = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Put other modules in the places of some, or plain ones back, and save the result."""
    check_free(out, overwrite)
    options = key_values(replacement_option, "--replacement-option")
    if restore and (options or module):
        raise RecipeError(
            "--restore puts back all that the replacement made; leave --module and --replacement-option out"
        )
    refuse_unknown(model, builder=model_name)
    refuse_unknown_method("replacement", "replacements", replacement)
    import torch

    from flowprune.artifacts import save
    from flowprune.commands.model_and_data import subject
    from flowprune.commands.terminal import print_json
    from flowprune.engine.steps import lineage_of
    from flowprune.methods import replacements

    torch.manual_seed(seed)
    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    x = given.example(input_shape)
    if restore:
        found = replacements.restore(given.model, replacement=replacement)
        chosen = replacements.restorable(given.model, replacements.REGISTRY.built(replacement))
    else:
        found = replacements.replace(given.model, x, replacement=replacement, names=module or None, **options)
        chosen = list(lineage_of(found).steps[-1].data["modules"])
    same = {"top1": given.notes["top1"]} if restore and "top1" in given.notes else {}
    save(found, out, notes={**given.notes_on(x), **same})
    sizes = [sum(parameter.numel() for parameter in one.parameters()) for one in (given.model, found)]
    if as_json:
        print_json({"replacement": replacement, "modules": chosen, "params": sizes, "restored": restore, "saved": out})
        return
    what = "plain modules put back" if restore else "modules replaced"
    typer.echo(f"{replacement}: {what}: {len(chosen)}; {sizes[0]:,} parameters before, {sizes[1]:,} now")
    typer.echo(f"saved: {out}")
