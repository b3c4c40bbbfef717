"""``flowprune quantize``: a model in, an artifact out whose weights are few values, stored by a codec."""

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
    share_or_count,
)
from flowprune.commands.step_options import Bytes, CodecName, CodecOption, LeftWhole, QuantizerName, QuantizerOption


def quantize(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="The artifact to write.", rich_help_panel=OUTPUT)],
    quantizer: QuantizerName = "cws",
    quantizer_option: QuantizerOption = None,
    codec: CodecName = "huffman",
    codec_option: CodecOption = None,
    bytes: Bytes = None,
    ignore: LeftWhole = None,
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
    """Give the weights few values and save them as codes."""
    check_free(out, overwrite)
    asked = share_or_count(bytes)
    options = key_values(quantizer_option, "--quantizer-option")
    codec_options = key_values(codec_option, "--codec-option")
    refuse_unknown(model, builder=model_name)
    refuse_unknown_method("quantizer", "quantizers", quantizer)
    refuse_unknown_method("codec", "codecs", codec)
    import torch

    from flowprune.artifacts import save
    from flowprune.commands.model_and_data import subject
    from flowprune.commands.terminal import print_json
    from flowprune.engine.steps import lineage_of
    from flowprune.methods.codecs.stored_model import stored_model
    from flowprune.methods.quantizers import quantize as quantized

    torch.manual_seed(seed)
    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    x = given.example(input_shape)
    found = quantized(
        given.model,
        x,
        quantizer=quantizer,
        codec=codec,
        codec_options=codec_options,
        bytes=asked,
        ignore=ignore or (),
        **options,
    )
    step = lineage_of(found).steps[-1].data
    before, now = stored_model(given.model).size, stored_model(found).size
    save(found, out, notes=given.notes_on(x))
    if as_json:
        print_json({**step, "bytes": [before, now], "saved": out})
        return
    chosen = ", ".join(f"{key}={value}" for key, value in step["options"].items())
    typer.echo(f"{quantizer} ({chosen}) by {codec}: {now:,} of {before:,} bytes are kept ({100 * now / before:.2f} %)")
    typer.echo(f"saved: {out}")
