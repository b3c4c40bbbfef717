"""Options that several commands share, and how they are read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from flowprune.commands.device import use_device, use_methods_of_others, use_threads
from flowprune.commands.known_names import complete_data_sets, complete_methods, complete_models
from flowprune.errors import BudgetError, OutputError, RecipeError
from flowprune.registry import from_per_cent

DATA, MODEL, RANKING, OUTPUT, MACHINE = "Data", "Model", "Ranking", "Output", "Machine"
"""The groups of options in a command's help."""


def pairs(name: str, said: str, group: str | None = None) -> Any:
    """An option that takes KEY=VALUE, any number of times; ``key_values`` reads what was typed."""

    def well_formed(typed: list[str] | None) -> list[str] | None:
        key_values(typed, name)
        return typed

    return typer.Option(
        name,
        metavar="KEY=VALUE",
        help=f"{said}; may be repeated.",
        show_default=False,
        rich_help_panel=group,
        callback=well_formed,
    )


def _well_formed_shape(typed: str | None) -> str | None:
    if typed is not None:
        image_shape(typed)
    return typed


ModelArgument = Annotated[
    str,
    typer.Argument(help="An artifact, or the name of a model (`flowprune methods`).", autocompletion=complete_models),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder the data sets lie in; else FLOWPRUNE_DATA.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
DataName = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Data set (`flowprune methods`); an artifact's own if left out.",
        show_default=False,
        rich_help_panel=DATA,
        autocompletion=complete_data_sets,
    ),
]
DataOption = Annotated[
    list[str] | None, pairs("--data-option", "normalize=, size=, subset=, workers= or unreadable=skip", DATA)
]
ImportanceName = Annotated[
    str,
    typer.Option(
        "--importance",
        help="What a channel is worth.",
        rich_help_panel=RANKING,
        autocompletion=complete_methods("importance"),
    ),
]
ImportanceOption = Annotated[list[str] | None, pairs("--importance-option", "Option of the importance", RANKING)]
Batches = Annotated[
    int,
    typer.Option("--batches", min=1, help="Training batches a data-driven importance sees.", rich_help_panel=RANKING),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images in each of them.", rich_help_panel=RANKING)]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of a new model's weights, and of which images are seen.")]
Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        help="Shape of an image, such as 3x32x32; else the usual one.",
        show_default=False,
        rich_help_panel=MODEL,
        callback=_well_formed_shape,
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--builder",
        help="Builder of the dense model (package.module:function) for an artifact of a model of your own.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
ModelOption = Annotated[
    list[str] | None, pairs("--model-option", "Option of the model's builder, such as width=8", MODEL)
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="NAME",
        help="An artifact may ask for this method of a third party; may be repeated.",
        show_default=False,
        rich_help_panel=MODEL,
        callback=use_methods_of_others,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        exists=True,
        help="Weights for a model given by name.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.", rich_help_panel=OUTPUT)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=OUTPUT)]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1 or mps; the fastest there is if left out.",
        show_default=False,
        rich_help_panel=MACHINE,
        callback=use_device,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="Threads of the processor; torch's own choice if left out.",
        show_default=False,
        rich_help_panel=MACHINE,
        callback=use_threads,
    ),
]
Tracker = Annotated[
    str | None,
    typer.Option(
        "--tracker",
        help="Write every epoch's figures to tensorboard, wandb, mlflow or another tracker that Accelerate knows.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Split = Literal["train", "test"]


def key_values(typed: list[str] | None, option: str) -> dict[str, Any]:
    """``["width=8"]`` as ``{"width": 8}``; values are YAML.

    Raises:
        RecipeError: one is not of that form.
    """
    read: dict[str, Any] = {}
    for pair in typed or ():
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise RecipeError(f"{option} {pair!r}: expected key=value")
        try:
            read[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"{option} {pair!r}: the value is no valid YAML") from error
    return read


def share_or_count(text: str | None) -> float | str | None:
    """A budget as typed: ``0.5`` and ``50%`` are shares, ``60M``, ``60000000`` and ``6e7`` are counts."""
    if text is None:
        return None
    number = _number(text)
    if number is None:
        return text
    return str(int(number)) if number > 1 and number.is_integer() and not text.rstrip().endswith("%") else number


def share(text: str | None, option: str) -> float | None:
    """``0.5`` or ``50%`` as 0.5.

    Raises:
        BudgetError: it is neither.
    """
    number = None if text is None else _number(text)
    if text is not None and number is None:
        raise BudgetError(f"{option} {text!r} is not a share; write it like 0.5 or 50%")
    return number


def shares_of(typed: list[str] | None, option: str) -> dict[str, Any]:
    """``["layer1=50%"]`` as ``{"layer1": 0.5}``; what is no share is left as it is, for whoever knows what it means.

    Raises:
        RecipeError: one is not of that form.
    """
    read = key_values(typed, option)
    return {key: value if _number(str(value)) is None else _number(str(value)) for key, value in read.items()}


def _number(text: str) -> float | None:
    """A plain number, or one in per cent; None if it is neither."""
    with suppress(ValueError):
        return float(str(from_per_cent(text)))
    return None


def image_shape(text: str) -> tuple[int, ...]:
    """``"3x32x32"`` as ``(3, 32, 32)``.

    Raises:
        RecipeError: it is not of that form.
    """
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise RecipeError(f"--input {text!r} is no shape; write it like 3x32x32 (channels, height, width)")
    return shape


def files_beside(page: Path, *suffixes: str) -> tuple[Path, ...]:
    """The page that is written, and the files beside it that are named like it, with these suffixes.

    Raises:
        OutputError: two of them would be one file.
    """
    if page.suffix in suffixes:
        raise OutputError(
            f"cannot write {page}: it is a page, and a {page.suffix} file goes beside it; name it like page.html"
        )
    return page, *(page.with_suffix(suffix) for suffix in suffixes)


def check_free(out: Path, overwrite: bool) -> None:
    """Raise an ``OutputError`` if the file ``out`` may not be written; before any work is done."""
    if out.is_dir():
        raise OutputError(f"cannot write {out}: it is a folder; name a file")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} is there already; --overwrite replaces it")
    if not out.absolute().parent.is_dir():
        raise OutputError(f"cannot write {out}: there is no folder {out.parent}; make it first")
    if not os.access(out.absolute().parent, os.W_OK):
        raise OutputError(f"cannot write {out}: the folder {out.parent} is read-only")
