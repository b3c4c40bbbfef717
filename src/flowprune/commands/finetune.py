"""``flowprune finetune``: train a model further."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowprune.commands.interruption import can_go_on_by_resume
from flowprune.commands.known_names import refuse_unknown
from flowprune.commands.options import (
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
    Threads,
    Tracker,
    Weights,
    check_free,
    key_values,
    pairs,
)
from flowprune.commands.teacher import Teacher, TeacherOption, taught
from flowprune.errors import OutputError, counted


def finetune(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="The artifact to write.", rich_help_panel=OUTPUT)],
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Passes over the training images.")] = 40,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            help="Learning rate at the start, falling as a cosine; 0.01 for a batch of 128 if left out, less for smaller ones.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=2,
            help="Images in a step; at most 128, fewer of a small data set, if left out.",
            show_default=False,
        ),
    ] = None,
    weight_decay: Annotated[float, typer.Option("--weight-decay", min=0)] = 5e-4,
    setting: Annotated[list[str] | None, pairs("--set", "Any other key of a recipe's training")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the order of the images.")] = 0,
    teacher: Teacher = None,
    teacher_option: TeacherOption = None,
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    allow: Allow = None,
    data: DataName = None,
    data_option: DataOption = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: Threads = None,
    tracker: Tracker = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted one.", rich_help_panel=OUTPUT)
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a model further, and save the result."""
    check_free(out, overwrite)
    from flowprune.studies.recipe_file import checked_sections
    from flowprune.training.settings import TrainingSettings
    from flowprune.training.usual_settings import fitted, usual

    options_of_training = {"lr": lr, "batch_size": batch_size, "weight_decay": weight_decay, "seed": seed}
    chosen = {name: value for name, value in options_of_training.items() if value is not None}
    chosen |= key_values(setting, "--set")
    settings = checked_sections(TrainingSettings, {**usual(epochs), **chosen}, "settings of the training")
    references = [model] if teacher is None else [model, teacher]
    refuse_unknown(*references, builder=model_name, data=data, data_option=data_option)
    under_way = out.with_name(f"{out.name}.training")
    if under_way.exists() and not (resume or overwrite):
        raise OutputError(
            f"{under_way} holds an interrupted fine-tuning; --resume goes on with it, --overwrite begins anew"
        )
    import shutil

    from flowprune.artifacts import save
    from flowprune.commands.model_and_data import here, subject, subject_beside
    from flowprune.commands.terminal import print_json
    from flowprune.training import evaluate, train
    from flowprune.training.divergence import DivergenceWatch
    from flowprune.training.trackers import tracked

    of_model = key_values(model_option, "--model-option")
    own = subject if teacher is None else subject_beside
    given = own(model, builder=model_name, options=of_model, weights=weights)
    teaching = None if teacher is None else subject_beside(teacher, builder=model_name, options=of_model)
    of_teacher = key_values(teacher_option, "--teacher-option")
    options = key_values(data_option, "--data-option")
    images = given.labelled_data(data, data_dir, options)
    settings = fitted(settings, len(images.train), chosen)
    before = evaluate(given.model.to(here()), images)
    with (
        taught(given.model, teaching, images, of_teacher) as beside,
        tracked(tracker, out.stem, out.absolute().parent, settings.model_dump()) as each_epoch,
    ):
        can_go_on_by_resume()
        result = train(
            given.model,
            images,
            settings,
            run_folder=under_way,
            resume=resume,
            regularizer=[DivergenceWatch(before.loss, images.classes), *beside],
            title="fine-tuning",
            each_epoch=each_epoch,
        )
    noted = given.notes_on(images.example_input(), images, data, options)
    save(given.model, out, notes={**noted, "top1": result.top1})
    shutil.rmtree(under_way, ignore_errors=True)
    if as_json:
        print_json(
            {
                "top1_before": before.top1,
                "top1": result.top1,
                "images": before.images,
                "settings": settings.model_dump(mode="json"),
                "precision": result.precision,
                "saved": out,
            }
        )
        return
    typer.echo(
        f"top-1 {result.top1:.2f} % after {counted(epochs, 'epoch')} in {result.precision} (before: {before.top1:.2f} %; "
        f"{counted(before.images, 'test image')} of {images.name})\nsaved: {out}"
    )
