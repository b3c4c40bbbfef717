"""``flowprune export``: ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.known_names import refuse_unknown
from flowprune.commands.options import (
    OUTPUT,
    Allow,
    AsJson,
    Input,
    ModelArgument,
    ModelName,
    ModelOption,
    Overwrite,
    check_free,
    key_values,
)


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="The ONNX file to write.", rich_help_panel=OUTPUT)],
    model_name: ModelName = None,
    model_option: ModelOption = None,
    allow: Allow = None,
    input_shape: Input = None,
    fixed_batch: Annotated[bool, typer.Option("--fixed-batch", help="For a batch of one image only.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write ONNX, checked in ONNX Runtime."""
    check_free(out, overwrite)
    refuse_unknown(model, builder=model_name)
    from dataclasses import asdict

    import torch

    from flowprune.artifacts import export as write_onnx
    from flowprune.commands.model_and_data import subject
    from flowprune.commands.terminal import print_json

    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"))
    x = given.example(input_shape)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    done = write_onnx(given.model, noise, out, dynamic_batch=not fixed_batch, notes=given.notes)
    if as_json:
        print_json(asdict(done))
        return
    typer.echo(
        f"saved: {out} (opset {done.opset}, {'any batch size' if done.dynamic_batch else 'batch of one'}; ONNX Runtime "
        f"differs from PyTorch by at most {done.largest_difference:.1e})"
    )
