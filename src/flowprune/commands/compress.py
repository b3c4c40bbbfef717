"""``flowprune compress``: from a trained model to a smaller one, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flowprune.commands.cut_options import (
    BUDGET,
    LIMITS,
    STEPS,
    Backend,
    Ignore,
    Latency,
    Macs,
    RoundTo,
    width_multiple,
)
from flowprune.commands.interruption import can_go_on_by_resume
from flowprune.commands.jobs import Quiet, Remove, Resume, check_folder
from flowprune.commands.known_names import complete_data_sets, complete_methods, is_artifact, refuse_unknown
from flowprune.commands.options import (
    DATA,
    OUTPUT,
    RANKING,
    Allow,
    AsJson,
    DataDir,
    DataOption,
    Device,
    ModelArgument,
    ModelName,
    ModelOption,
    Seed,
    Threads,
    Weights,
    key_values,
    pairs,
    share_or_count,
)
from flowprune.errors import BudgetError, RecipeError
from flowprune.studies.compression.paired_drop import check_resolvable
from flowprune.training.data_names import DATA_SETS

if TYPE_CHECKING:
    from flowprune.commands.model_and_data import Subject
    from flowprune.training import Data


def compress(
    model: ModelArgument,
    macs: Macs = None,
    latency: Latency = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            help="The smallest model that loses at most so many points of accuracy, with 95 % confidence.",
            show_default=False,
            rich_help_panel=BUDGET,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="A folder of pictures, or a data set (`flowprune methods`); an artifact's own if left out.",
            show_default=False,
            rich_help_panel=DATA,
            autocompletion=complete_data_sets,
        ),
    ] = None,
    data_option: DataOption = None,
    data_dir: DataDir = None,
    validation: Annotated[
        Literal["train", "test"],
        typer.Option("--validation", help="The half whose images choose; they leave it.", rich_help_panel=DATA),
    ] = "train",
    validation_images: Annotated[
        int | None,
        typer.Option(
            "--validation-images",
            min=1,
            help="How many; a fifth of the training images, half of the test images, or 5,000 if left out.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    importance: Annotated[
        list[str] | None,
        typer.Option(
            "--importance",
            help="A criterion to choose from; may be repeated. l2, fpgm and nuclear_norm if left out.",
            show_default=False,
            rich_help_panel=RANKING,
            autocompletion=complete_methods("importance"),
        ),
    ] = None,
    rounds: Annotated[
        list[int] | None,
        typer.Option(
            "--rounds",
            min=1,
            help="A number of cuts to choose from, with training after each; may be repeated. 1 and 3 if left out.",
            show_default=False,
            rich_help_panel=STEPS,
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", min=0, help="Of the training, in all rounds.", rich_help_panel=STEPS)
    ] = 20,
    setting: Annotated[list[str] | None, pairs("--set", "Any other key of a recipe's training", STEPS)] = None,
    trials: Annotated[
        int,
        typer.Option("--trials", min=1, help="Budgets tried at most for --max-drop.", rich_help_panel=LIMITS),
    ] = 5,
    hours: Annotated[
        float | None,
        typer.Option(
            "--hours",
            help="That it may take; what was found by then is kept.",
            show_default=False,
            rich_help_panel=LIMITS,
        ),
    ] = None,
    round_to: RoundTo = "1",
    ignore: Ignore = None,
    backend: Backend = "pytorch",
    seed: Seed = 0,
    weights: Weights = None,
    model_name: ModelName = None,
    model_option: ModelOption = None,
    allow: Allow = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for everything that is made.", rich_help_panel=OUTPUT)
    ] = Path("runs/compressed"),
    onnx: Annotated[
        bool, typer.Option("--onnx/--no-onnx", help="Write ONNX beside the artifact.", rich_help_panel=OUTPUT)
    ] = True,
    resume: Resume = False,
    overwrite: Remove = False,
    quiet: Quiet = False,
    device: Device = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Make a trained model smaller: choose, cut, train, measure."""
    check_folder(out, resume, overwrite)
    goal = _checked_goal(macs, latency, max_drop, validation_images, hours)
    data, data_dir = _named_data(data, data_dir)
    for name in importance or ():
        refuse_unknown(importance=name)
    refuse_unknown(model, builder=model_name, data=data, data_option=data_option)
    from flowprune.studies.recipe_file import checked_sections
    from flowprune.training.settings import TrainingSettings
    from flowprune.training.usual_settings import fitted, usual

    chosen = {"seed": seed, **key_values(setting, "--set")}
    settings = checked_sections(TrainingSettings, {**usual(epochs), **chosen}, "settings of the training")

    import torch
    from rich.console import Console

    from flowprune.commands.model_and_data import here, subject
    from flowprune.commands.terminal import print_json
    from flowprune.studies.compression.compressing import CRITERIA, ROUNDS
    from flowprune.studies.compression.compressing import compress as carry_out
    from flowprune.studies.compression.compression_page import faster, gained
    from flowprune.studies.compression.compression_record import remove_compression
    from flowprune.studies.compression.distilled_training import DistilledTraining
    from flowprune.studies.compression.hand_over import handed_over
    from flowprune.studies.compression.validation_images import few_of, with_validation
    from flowprune.training.evaluation import right_answers

    torch.manual_seed(seed)
    given = subject(model, builder=model_name, options=key_values(model_option, "--model-option"), weights=weights)
    options = key_values(data_option, "--data-option")
    whole = given.labelled_data(data, data_dir, options)
    choosing, last = with_validation(whole, validation, validation_images, seed, max_drop)
    settings = fitted(settings, len(choosing.train), chosen)
    if overwrite:
        remove_compression(out)
    _warn_where_seen(model, given, whole, validation, weights)
    notes = Console(stderr=True, quiet=quiet, highlight=False)

    def say(line: str) -> None:
        notes.print(line, markup=False, soft_wrap=True)

    dense = given.model.to(here()).eval()
    few = few_of(choosing)
    can_go_on_by_resume("--overwrite")
    done = carry_out(
        dense,
        choosing.example_input().to(here()),
        evaluate=lambda one: right_answers(one, choosing),
        quick=lambda one: right_answers(one, few),
        train=DistilledTraining(choosing, settings, progress=not quiet, say=say) if settings.epochs else None,
        batches=choosing.batches("train", batch_size=128, count=5, seed=seed),
        **goal,
        criteria=importance or CRITERIA,
        rounds=rounds or ROUNDS,
        trials=trials,
        ignore=ignore or (),
        backend=backend,
        round_to=width_multiple(round_to),
        out=out,
        resume=resume,
        hours=hours,
        settings={
            "model": model,
            "data": whole.name,
            "validation": [validation, len(choosing.test)],
            "training": settings.model_dump(mode="json"),
        },
        say=say,
    )
    noted = given.notes_on(last.example_input(), whole, data, options)
    content = handed_over(done, dense, last, out, model, noted, backend, onnx=onnx)
    if as_json:
        print_json(content)
        return
    typer.echo(f"{done}\n{gained(content)}\n{faster(content)}")
    typer.echo(f"saved: {', '.join(str(out / name) for name in content['files'])}")


def _checked_goal(
    macs: str | None, latency: str | None, max_drop: float | None, images: int | None, hours: float | None
) -> dict[str, Any]:
    """The goal as ``fp.compress`` takes it, refused as far as that needs neither model nor data."""
    goal = {"macs": share_or_count(macs), "latency": share_or_count(latency), "max_drop": max_drop}
    asked = {name: value for name, value in goal.items() if value is not None}
    if len(asked) != 1:
        raise BudgetError("say what is to be reached by one of --macs, --latency and --max-drop")
    ((name, value),) = asked.items()
    option = f"--{name.replace('_', '-')}"
    if name == "max_drop" and not 0 < float(value) < 100:
        raise BudgetError(f"{option} {value:g} is not a loss of accuracy; use percentage points, such as 0.5")
    if name != "max_drop" and isinstance(value, float) and not 0 < value < 1:
        raise BudgetError(f"{option} {value:g} is not a goal; keep a share above 0 and below 1, such as 0.5")
    if max_drop is not None and images is not None:
        check_resolvable(max_drop, images, "hold out as many with --validation-images, or allow a larger drop")
    if hours is not None and not hours > 0:
        raise RecipeError(f"--hours {hours:g} is no time; use a number above 0")
    return asked


def _named_data(data: str | None, data_dir: Path | None) -> tuple[str | None, Path | None]:
    """The data set and its folder; a folder alone is one of pictures."""
    if data is None or data in DATA_SETS or not Path(data).is_dir():
        return data, data_dir
    if data_dir is not None:
        raise RecipeError(f"--data {data} is a folder of pictures already; leave --data-dir out")
    return "imagefolder", Path(data)


def _warn_where_seen(model: str, given: Subject, data: Data, validation: str, weights: Path | None) -> None:
    """Say where the model may have learned from the images that are to judge it."""
    import warnings

    from flowprune.errors import FlowpruneWarning

    noted = given.notes.get("data")
    elsewhere = isinstance(noted, dict) and noted.get("name") not in (None, data.name)
    trained = is_artifact(model) or weights is not None or ":" in model
    if validation == "train" and trained and not elsewhere:
        warnings.warn(
            "the model may have been trained on the validation images, which then judge every model too kindly; --validation test "
            "takes half of the test images instead",
            FlowpruneWarning,
            stacklevel=2,
        )
