"""Pruning in steps with training between them, as the pipeline and the command line do it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from flowprune.engine.allocation import Plan
from flowprune.engine.allocation.composition import composed, cuts_between
from flowprune.engine.planning import Request
from flowprune.pruning import prune_in_steps
from flowprune.training import Data, TrainingSettings, train


def prune_with_training(
    model: nn.Module,
    example: Tensor,
    request: Request,
    steps: int,
    finetune: Callable[[nn.Module, int], None],
) -> tuple[nn.Module, Plan]:
    """Cut in steps, as ``flowprune.prune_iteratively`` does; the plan is that of all steps together."""
    small = prune_in_steps(model, example, request, steps, finetune)
    return small, composed(cuts_between(model, small), f"{request.budget} in {steps} steps")


def training_between(
    *,
    steps: int,
    settings: TrainingSettings | None,
    data: Data | None,
    run_folder: Callable[[int], Path | None],
    title: str,
    progress: bool,
) -> Callable[[nn.Module, int], None]:
    """What trains the small model of a step in place, before the next one.

    Args:
        steps: how many cuts.
        settings, data: of the training; None trains nothing.
        run_folder: step -> where its training keeps its state, from which it goes on after an interruption; None keeps none.
        title: of the progress bars.
        progress: show them.
    """

    def finetune(small: nn.Module, step: int) -> None:
        nonlocal settings
        if settings is not None and data is not None and settings.epochs > 0:
            folder = run_folder(step)
            result = train(
                small,
                data,
                settings,
                run_folder=folder,
                resume=folder is not None,
                progress=progress,
                title=f"{title}, step {step} of {steps}",
            )
            settings = settings.model_copy(update={"precision": result.precision})  # measured once, if at all

    return finetune
