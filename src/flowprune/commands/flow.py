"""``flowprune flow``: how the features move through a network, as tables and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flowprune.commands.known_names import is_artifact, refuse_unknown
from flowprune.commands.options import (
    DATA,
    OUTPUT,
    Allow,
    AsJson,
    DataDir,
    DataName,
    DataOption,
    Device,
    ModelArgument,
    ModelName,
    ModelOption,
    Overwrite,
    Split,
    Threads,
    Weights,
    check_free,
    key_values,
)
from flowprune.errors import DataError, OutputError, RecipeError, TraceError, counted

if TYPE_CHECKING:
    from torch import Tensor

    from flowprune.commands.model_and_data import Subject
    from flowprune.training import Data

_BATCH, _POSITIONS = 64, 1 << 20
"""Images in a batch: so many, but fewer of large ones, because all points' features are held at once."""


def flow(
    model: ModelArgument,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="Another model to show beside it; may be repeated.", show_default=False),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="The page to write; a JSON file goes beside it.", rich_help_panel=OUTPUT)
    ] = Path("flow.html"),
    json_file: Annotated[Path | None, typer.Option("--record", hidden=True)] = None,
    images: Annotated[
        int, typer.Option("--images", min=1, help="So many images, drawn by --seed.", rich_help_panel=DATA)
    ] = 256,
    split: Annotated[
        Split, typer.Option("--split", help="Images they are drawn from; train unaugmented.", rich_help_panel=DATA)
    ] = "train",
    classes: Annotated[
        int, typer.Option("--classes", min=1, help="Draw the paths of so many classes, those with most images.")
    ] = 10,
    points: Annotated[
        str, typer.Option("--points", help="blocks, layers, or names of modules separated by commas.")
    ] = "blocks",
    across: Annotated[
        Literal["skip", "project"] | None,
        typer.Option("--across", help="What to do where the shape changes.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the images, and of weights nobody gave.")] = 0,
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    allow: Allow = None,
    data: DataName = None,
    data_option: DataOption = None,
    data_dir: DataDir = None,
    overwrite: Overwrite = False,
    device: Device = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Show how far and how straight features move from layer to layer."""
    record = json_file if json_file is not None else out.with_suffix(".json")
    if record.absolute() == out.absolute():
        raise OutputError(f"the page and its numbers are the same file, {out}; name the page like flow.html")
    for file in (out, record):
        check_free(file, overwrite)
    references = [model, *(against or ())]
    if len(set(references)) < len(references):
        raise RecipeError(f"--against names the model {_repeated(references)} a second time; leave it out")
    refuse_unknown(*references, builder=model_name, data=data, data_option=data_option)
    import json

    from flowprune.artifacts.atomic_write import write_text
    from flowprune.commands.terminal import print_json, wide_console
    from flowprune.reporting import environment
    from flowprune.reporting.flow_page import flow_html
    from flowprune.reporting.flow_record import FlowRecord
    from flowprune.reporting.flow_tables import terminal_tables, verdicts
    from flowprune.reporting.template import write_page

    options = key_values(model_option, "--model-option")
    how = {"points": points if points in ("blocks", "layers") else points.split(","), "across": across}
    given = _subjects(references, model_name, options, weights, seed)
    chosen = data if data is not None else _noted_data(given)
    found: dict[str, dict[str, Any]] = {}
    about: dict[str, Any] = {"split": split, "images": images, "seed": seed, "points": how["points"], "across": across}
    for name, reference, one in zip(_names(references), references, given, strict=True):
        whole = one.data(chosen, data_dir, key_values(data_option, "--data-option"))
        batches, labels = _drawn(whole, split, images, classes, seed)
        untrained = not is_artifact(reference) and not (reference == model and weights is not None)
        found[name] = {"model": reference, "random_weights": untrained, **_measured(one, whole, batches, labels, how)}
        about |= {"data": whole.name, "images": found[name]["images"], "classes": labels}
    records = {name: FlowRecord.model_validate(content) for name, content in found.items()}
    said = verdicts(records)
    content = {**about, "models": found, "comparison": said, "environment": environment()}
    half = "training" if split == "train" else "test"
    lead = f"Measured on {counted(about['images'], f'{half} image')} of {about['data']}, seed {seed}."
    random = [name for name, one_found in found.items() if one_found["random_weights"]]
    if random:
        lead += f" Random weights: {', '.join(random)}."
    page = flow_html(records, lead, content["environment"])
    write_text(record, json.dumps(content, allow_nan=False) + "\n")
    write_page(page, out)
    if as_json:
        print_json(content)
        return
    console = wide_console(160)
    for table in terminal_tables(records):
        console.print(table)
    for name, one_record in records.items():
        for what, reason in {**one_record.left_out, **one_record.stages_left_out}.items():
            typer.echo(f"{name}: left out: {what}: {reason}")
    for line in (*said, lead):
        typer.echo(line)
    typer.echo(f"saved: {out}, {record}")


def _subjects(
    references: list[str], builder: str | None, options: dict[str, Any], weights: Path | None, seed: int
) -> list[Subject]:
    """The models. A builder is for the artifacts among them and options are for the names; where there is none of these, the
    model says that it cannot take them.
    """
    import torch

    from flowprune.commands.model_and_data import subject

    kinds = {is_artifact(reference) for reference in references}
    found = []
    for position, reference in enumerate(references):
        file = is_artifact(reference)
        torch.manual_seed(seed)
        found.append(
            subject(
                reference,
                builder=builder if file or True not in kinds else None,
                options=options if not file or builder is not None or False not in kinds else None,
                weights=weights if position == 0 else None,
            )
        )
    return found


def _noted_data(given: list[Subject]) -> str | None:
    """The data set that the first artifact knows to belong to it, so that all models see the same images."""
    for one in given:
        noted = one.notes.get("data")
        if isinstance(noted, dict) and isinstance(noted.get("name"), str):
            return str(noted["name"])
    return None


def _drawn(
    data: Data, split: str, images: int, classes: int, seed: int
) -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
    """Images drawn by the seed, in batches, and the labels that occur most often among them, in order.

    Raises:
        DataError: there are fewer images than classes to draw.
    """
    from dataclasses import replace

    import torch

    from flowprune.training.splits import drawn

    whole = data.train if split == "train" else data.test
    wanted, count = min(classes, data.classes), min(images, len(whole))
    if count < wanted:
        raise DataError(
            f"--images {images}: {counted(count, 'image')} cannot show {wanted} classes; use more images, or --classes {count}"
        )
    seen = replace(data, test=drawn(whole, count, seed))
    size = max(1, min(_BATCH, _POSITIONS // (data.shape[1] * data.shape[2])))
    batches = list(seen.batches("test", batch_size=size))
    labels, counts = torch.cat([targets for _, targets in batches]).unique(return_counts=True)
    most = counts.sort(descending=True, stable=True).indices[:wanted]
    return batches, sorted(int(label) for label in labels[most])


def _measured(
    given: Subject, data: Data, batches: list[tuple[Tensor, Tensor]], labels: list[int], how: dict[str, Any]
) -> dict[str, Any]:
    from dataclasses import asdict

    from flowprune.commands.model_and_data import here
    from flowprune.engine.measuring import dead_filters
    from flowprune.studies.flow_paths import flow_paths

    device = here()
    model = given.model.to(device)
    paths = flow_paths(model, batches, classes=labels, **how)
    try:
        dead = dead_filters(model, data.example_input().to(device), batches)
    except TraceError:
        # Points that are named need no trace of the model; counting its filters does.
        return {**paths.as_dict(), "filters": None, "dead_filters": None, "layers": []}
    return {
        **paths.as_dict(),
        "filters": dead.filters,
        "dead_filters": dead.dead,
        "layers": [asdict(layer) for layer in dead.layers],
    }


def _names(references: list[str]) -> list[str]:
    """Short names: files without folder and ending, where that tells them apart."""
    short = [
        Path(reference).name.removesuffix(".fp") if is_artifact(reference) else reference for reference in references
    ]
    return short if len(set(short)) == len(short) else references


def _repeated(references: list[str]) -> str:
    return next(reference for position, reference in enumerate(references) if reference in references[:position])
