"""``flowprune methods``: what there is to choose from."""

from __future__ import annotations

import inspect

import typer

from flowprune.commands.options import AsJson

ROOMS = {
    "importance": "importances (--importance)",
    "allocators": "allocators (--allocator)",
    "masks": "masks (mask --mask)",
    "replacements": "replacements (replace --replacement)",
    "quantizers": "quantizers (quantize --quantizer)",
    "codecs": "codecs (quantize --codec)",
    "regularizers": "regularizers (a recipe's trainings)",
    "recovery": "recoveries (a recipe's recoveries)",
    "decisions": "decisions (a recipe's cuts, decided_by)",
}
"""Room of methods -> what they are, and where one is asked for by its name."""


def methods(as_json: AsJson = False) -> None:
    """List systems of the literature by kind, methods of every room, models and data sets."""
    from flowprune.commands.terminal import print_json
    from flowprune.methods import registry_of
    from flowprune.methods.presets import KINDS, REGISTRY
    from flowprune.models import names
    from flowprune.training import data_sets

    rooms = {room: registry_of(room) for room in ROOMS}
    if as_json:
        systems = {name: REGISTRY[name].kind for name in REGISTRY}
        known = {room: list(registry) for room, registry in rooms.items()}
        print_json({"systems": systems, **known, "models": names(), "data": data_sets()})
        return
    for kind in KINDS:
        of_kind = [REGISTRY[name] for name in REGISTRY if REGISTRY[name].kind == kind]
        if of_kind:
            typer.echo(f"systems, {kind} (run --method), for {', '.join(KINDS[kind]) or 'no budget'}:")
        for system in of_kind:
            typer.echo(f"  {system.name:<18} {system.title}: {system.paper} ({system.fidelity})")
    for room, registry in rooms.items():
        typer.echo(f"{ROOMS[room]}:")
        for name in registry:
            needs = _needs(registry[name]) if room in ("importance", "allocators") else ""
            typer.echo(f"  {name:<18} {_first_sentence(registry[name])} {needs}".rstrip())
    typer.echo("models:")
    typer.echo(f"  {', '.join(names())}")
    typer.echo("  torchvision:NAME, timm:NAME, package.module:function")
    typer.echo("data sets (--data):")
    typer.echo(f"  {', '.join(data_sets())}")


def _needs(criterion: object) -> str:
    """What a criterion must be given, besides the model."""
    wanted = [need for need in ("data", "labels", "gradients") if getattr(criterion, f"needs_{need}", False)]
    if not wanted:
        return "Needs no data."
    return f"Needs {', '.join(wanted[:-1])}{' and ' if wanted[:-1] else ''}{wanted[-1]}."


def _first_sentence(method: object) -> str:
    """The first paragraph of a docstring, as one line without its marks."""
    return " ".join((inspect.getdoc(method) or "").partition("\n\n")[0].replace("``", "").split())
