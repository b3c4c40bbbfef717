"""Pruning in steps with training between them, as the pipeline and the command line do it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flowprune.engine.allocation import Plan, budget_from
from flowprune.engine.allocation.composition import composed
from flowprune.engine.steps.lineage import lineage_of
from flowprune.pruning import prune_iteratively
from flowprune.training import Data, TrainingSettings, train


def prune_with_training(
    model: nn.Module,
    example: Tensor,
    *,
    steps: int,
    settings: TrainingSettings | None,
    data: Data | None,
    run_folder: Callable[[int], Path | None],
    title: str,
    progress: bool,
    **options: Any,
) -> tuple[nn.Module, Plan]:
    """Cut in steps; the plan is that of all steps together.

    Args:
        model, example, steps: see ``flowprune.prune_iteratively``.
        settings, data: the training between the steps; None trains nothing.
        run_folder: step -> where its training keeps its state, from which it goes on after an interruption; None keeps none.
        title: of the progress bars.
        progress: show them.
        **options: for ``flowprune.plan``.
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

    small = prune_iteratively(model, example, steps=steps, finetune=finetune, **options)
    made = [Plan.from_dict(plan) for plan in lineage_of(small).plans[len(lineage_of(model).plans) :]]
    kinds = ("macs", "params", "channels", "threshold", "latency")
    asked = budget_from(**{kind: options.get(kind) for kind in kinds})  # type: ignore[arg-type]
    return small, composed(made, f"{asked} in {steps} steps")
