"""``flowprune predict``: what a network sees in pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowprune.commands.known_names import refuse_unknown
from flowprune.commands.options import (
    Allow,
    AsJson,
    Device,
    Input,
    ModelArgument,
    ModelName,
    ModelOption,
    Threads,
    Weights,
    image_shape,
    key_values,
)
from flowprune.errors import DataError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor


def predict(
    model: ModelArgument,
    pictures: Annotated[list[Path], typer.Argument(help="Picture files; of a folder, all in it.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Show so many classes.")] = 3,
    normalize: Annotated[
        str | None,
        typer.Option(
            "--normalize",
            help="imagenet, cifar10, ..., none; what the model notes if left out.",
            show_default=False,
        ),
    ] = None,
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    allow: Allow = None,
    input_shape: Input = None,
    device: Device = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Name what is in pictures, by an artifact, an ONNX file or a model."""
    refuse_unknown(model, builder=model_name)
    files = [file for given in pictures for file in (sorted(given.iterdir()) if given.is_dir() else [given])]
    for file in files:
        if not file.is_file():
            raise DataError(f"no picture {file}")

    from flowprune.commands.terminal import print_json
    from flowprune.training.picture_labels import predicted
    from flowprune.training.pixel_normalization import Normalization, normalization

    notes: Mapping[str, Any]
    logits_of: Callable[[Tensor], Tensor]
    if model.endswith(".onnx"):
        from flowprune.artifacts.onnx_session import OnnxModel

        network = OnnxModel(Path(model), threads=threads)
        notes, logits_of, shape = network.notes, network, network.image_shape
    else:
        import torch

        from flowprune.commands.model_and_data import here, subject

        given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
        notes, shape = given.notes, tuple(given.example(input_shape).shape[1:])
        built, place = given.model.to(here()).eval(), here()

        def logits_of(images: Tensor) -> Tensor:
            with torch.inference_mode():
                return built(images.to(place)).cpu()  # type: ignore[no-any-return]

    if input_shape is not None:
        shape = image_shape(input_shape)
    if shape is None or len(shape) != 3:
        raise RecipeError("the shape of an image is not known for this model; give it with --input, like 3x224x224")
    pixels = notes.get("pixels")
    if normalize is not None:
        scaled = normalization(normalize, shape[0])
    elif isinstance(pixels, Mapping):
        scaled = Normalization(tuple(pixels["mean"]), tuple(pixels["deviation"]))
    elif model.startswith(("torchvision:", "timm:")):
        scaled = normalization("imagenet", shape[0])
    else:
        raise RecipeError("how its pictures are normalized is not known for this model; name it, --normalize imagenet")
    names = notes.get("class_names") or ()
    found = predicted(logits_of, files, (shape[0], shape[1], shape[2]), scaled, names, top)
    if as_json:
        print_json({str(file): chances for file, chances in zip(files, found, strict=True)})
        return
    for file, chances in zip(files, found, strict=True):
        typer.echo(f"{file}: " + ", ".join(f"{name} {100 * chance:.1f} %" for name, chance in chances.items()))
