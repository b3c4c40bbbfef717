"""``flowprune bench``: how fast models are, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowprune.commands.cut_options import BACKENDS
from flowprune.commands.known_names import complete_models, refuse_unknown
from flowprune.commands.options import Allow, AsJson, Input, ModelName, ModelOption, image_shape, key_values
from flowprune.errors import RecipeError, checked_name, counted

if TYPE_CHECKING:
    from flowprune.studies.speed import Contestant, SpeedRow


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Artifacts, ONNX files or names of models; the first is what others are compared with.",
            autocompletion=complete_models,
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend", help="pytorch (if left out), compiled or onnxruntime; may be repeated.", show_default=False
        ),
    ] = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            "--batch-size", min=1, help="Images in a forward; may be repeated. 1 if left out.", show_default=False
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            "--threads", min=1, help="Threads; may be repeated. torch's own choice if left out.", show_default=False
        ),
    ] = None,
    turns: Annotated[int, typer.Option("--turns", min=1, help="Samples of each, in turns.")] = 7,
    layers: Annotated[
        int, typer.Option("--layers", min=0, help="Show so many layers that the difference comes from (PyTorch).")
    ] = 0,
    widths: Annotated[
        bool, typer.Option("--widths", help="Measure the widths this machine likes, and keep them for --round-to auto.")
    ] = False,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    allow: Allow = None,
    input_shape: Input = None,
    as_json: AsJson = False,
) -> None:
    """Time models side by side, in turns, in one process."""
    for name in backend or ():
        checked_name("backend", name, BACKENDS)
    if widths == bool(models):
        raise RecipeError("name models to time, or --widths alone")
    if widths:
        _measure_widths(backend or ["pytorch"], turns, as_json)
        return
    models = models or []
    refuse_unknown(*models, builder=model_name)
    if len(set(models)) < len(models):
        raise RecipeError("one model is named twice; name each once")
    from dataclasses import asdict

    import torch

    from flowprune.commands.terminal import print_json
    from flowprune.reporting import environment
    from flowprune.studies.speed import Conditions, side_by_side

    options = key_values(model_option, "--model-option")
    contestants = [_contestant(name, model_name, options, input_shape) for name in models]
    conditions = [
        Conditions(one, size, count)
        for one in backend or ["pytorch"]
        for size in batch_size or [1]
        for count in threads or [torch.get_num_threads()]
    ]
    rows = list(side_by_side(contestants, conditions, turns))
    differences = _differences(contestants, layers, (batch_size or [1])[0]) if layers else []
    if as_json:
        print_json({"rows": [asdict(row) for row in rows], "layers": differences, "environment": environment()})
        return
    _show(rows, turns)
    for line in differences:
        typer.echo(
            f"{line['layer']}: {1e3 * line['before']:.3g} ms in {models[0]}, {1e3 * line['after']:.3g} ms in {models[1]} "
            f"({line['saved']:+.0%} of the whole difference)"
        )


def _measure_widths(backends: list[str], turns: int, as_json: bool) -> None:
    from flowprune.commands.terminal import print_json
    from flowprune.engine.measuring.preferred_widths import keep, measure_widths

    found = {backend: measure_widths(backend, turns) for backend in backends}
    for backend, one in found.items():
        file = keep(backend, one)
    if as_json:
        print_json(found)
        return
    for backend, one in found.items():
        times = ", ".join(f"{width} wide: {1e6 * seconds:.3g} us" for width, seconds in one["times"].items())
        typer.echo(f"{backend}: multiples of {one['multiple']} (for a million multiply-accumulates, {times})")
    typer.echo(f"saved: {file}")


def _contestant(name: str, builder: str | None, options: dict[str, object], input_shape: str | None) -> Contestant:
    from flowprune.studies.speed import Contestant

    if name.endswith(".onnx"):
        from flowprune.artifacts.onnx_session import OnnxModel

        shape = image_shape(input_shape) if input_shape is not None else OnnxModel(Path(name)).image_shape
        if shape is None:
            raise RecipeError(f"the shape of an image is not known for {name}; give it with --input, like 3x224x224")
        return Contestant(name, None, shape, lambda threads: OnnxModel(Path(name), threads))

    from flowprune.commands.model_and_data import subject_beside

    given = subject_beside(name, builder=builder, options=options)
    return Contestant(name, given.model.eval(), tuple(given.example(input_shape).shape[1:]))


def _differences(contestants: list[Contestant], most: int, batch: int) -> list[dict[str, Any]]:
    """The layers of the first two models in PyTorch whose times differ most."""
    import torch

    from flowprune.engine.measuring.layer_times import layer_times

    models = [one.model for one in contestants if one.model is not None][:2]
    if len(models) < 2:
        raise RecipeError("--layers compares the layers of two models in PyTorch; name two that are no ONNX files")
    before, after = layer_times(models, torch.zeros(batch, *contestants[0].shape))
    both = [name for name in before if name in after]
    whole = sum(before.values()) - sum(after.values())
    both.sort(key=lambda name: abs(before[name] - after[name]), reverse=True)
    return [
        {
            "layer": name,
            "before": before[name],
            "after": after[name],
            "saved": (before[name] - after[name]) / whole if whole else 0.0,
        }
        for name in both[:most]
    ]


def _show(rows: list[SpeedRow], turns: int) -> None:
    from rich.table import Table

    from flowprune.commands.terminal import wide_console

    table = Table(box=None, pad_edge=False)
    table.add_column("model")
    table.add_column("backend")
    for title in ("batch", "threads", "ms", "middle half", "x as fast", "x fewer MACs", "weights MB", "features MB"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            row.backend,
            str(row.batch),
            str(row.threads),
            f"{row.milliseconds:.3g}",
            f"{row.quartiles[0]:.3g}-{row.quartiles[1]:.3g}",
            f"{row.speed_up:.2f}",
            "-" if row.macs_ratio is None else f"{row.macs_ratio:.2f}",
            "-" if row.weight_mb is None else f"{row.weight_mb:.2f}",
            "-" if row.feature_mb is None else f"{row.feature_mb:.2f}",
        )
    wide_console(140).print(table)
    typer.echo(f"the middle of {counted(turns, 'turn')}; features: what lives at once in a PyTorch forward, counted")
