"""The weights of a model's tensors as a problem for an allocator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from flowprune.engine.interfaces import AllocationProblem, Levels, Mask
from flowprune.engine.tracing import model_of
from flowprune.engine.tracing.shadow import copy_with
from flowprune.errors import BudgetError, ModelError


def weight_problem(
    model: nn.Module, scores: Mapping[str, torch.Tensor], mask: Mask, weights: float
) -> AllocationProblem:
    """How many weights each tensor loses.

    Args:
        model: the model; it is left alone.
        scores: of the tensors to share out among, as a ``WeightScore`` gives them.
        mask: which weights stay, given the share of each tensor; the probes are masked by it.
        weights: the share of all these weights that is kept.

    Returns:
        The problem, whose units are the tensors' names and whose levels are numbers of weights; ``kept_shares`` makes of them what
        ``mask.select`` takes.

    Raises:
        BudgetError: ``weights`` is no share.
        ModelError: scores hold NaN, or are of no parameter's name and shape.
    """
    if isinstance(weights, bool) or not isinstance(weights, int | float) or not 0 < weights <= 1:
        raise BudgetError(f"weights={weights!r} is not a budget: a share is a number above 0 and at most 1")
    model = model_of(model)
    names: dict[int, str] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, score in scores.items():
        if name not in parameters or parameters[name].shape != score.shape:
            raise ModelError(
                f"the scores of {name}, {tuple(score.shape)}, are of no parameter of {type(model).__name__}"
            )
        if score.isnan().any():
            raise ModelError(f"the scores of {name} hold NaN, so its weights cannot be ranked")
        names[id(parameters[name])] = name
    ascending = tuple(np.sort(score.detach().double().cpu().flatten().numpy()) for score in scores.values())
    sizes = np.array([len(values) for values in ascending], dtype=np.int64)
    total = int(sizes.sum())

    def probe(levels: Levels) -> nn.Module:
        masks = mask.select(scores, kept_shares(problem, levels))

        def masked(tensor: torch.Tensor) -> torch.Tensor:
            name = names.get(id(tensor))
            values = tensor.detach().clone() if name is None else tensor.detach() * masks[name]
            return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values

        return copy_with(model, masked).eval()

    problem = AllocationProblem(
        units=tuple(scores),
        scores=ascending,
        limits=sizes.copy(),
        steps=np.ones(len(sizes), dtype=np.int64),
        count=lambda levels: total - int(levels.sum()),
        target=int(weights * total + 1e-6),
        counted="weights",
        rounding=lambda levels: np.minimum(levels, sizes),
        probe=probe,
        costs=np.ones(len(sizes), dtype=np.int64),
        shapes=tuple(tuple(score.shape) for score in scores.values()),
    )
    return problem


def kept_shares(problem: AllocationProblem, levels: Levels) -> dict[str, float]:
    """Unit -> the share of it that stays at such levels.

    Example:
        ``mask.select(scores, kept_shares(problem, allocator(problem)))``
    """
    return dict(zip(problem.units, (1 - levels / problem.sizes).tolist(), strict=True))
