"""The verb ``mask``: a model in, one back whose masked weights are zero for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.engine.allocation.budget import budget_from
from flowprune.engine.interfaces import Allocator, Keep, Mask, WeightScore
from flowprune.engine.planning.exemptions import Ignored, not_ignored
from flowprune.engine.planning.weight_problem import kept_shares, weight_problem
from flowprune.engine.signatures import Inputs
from flowprune.engine.steps.carried_masks import held_where, masked
from flowprune.engine.steps.lineage import lineage_of
from flowprune.engine.steps.trying import check_runs
from flowprune.errors import BudgetError, FlowpruneError
from flowprune.methods.allocators import REGISTRY as ALLOCATORS
from flowprune.methods.importance.weight_scores import REGISTRY as SCORES
from flowprune.methods.masks.registry import REGISTRY


def mask(
    model: nn.Module,
    inputs: Inputs,
    *,
    mask: str | Mask | Mapping[str, Tensor] = "weight",
    weights: float | str | Mapping[str, float] | None = None,
    score: str | WeightScore = "magnitude",
    allocator: str | Allocator | None = None,
    batches: Iterable[Any] | None = None,
    ignore: Ignored = (),
    **options: Any,
) -> nn.Module:
    """A new model whose masked weights are exactly zero and known to stay so; ``model`` is untouched.

    The weights of convolutions, linear layers, attention and recurrent layers are masked, not biases, norms and embeddings. What an
    earlier mask took stays away. ``fp.train`` holds the zeros, ``fp.hold`` does so in a loop of your own; ``fp.prune``,
    ``fp.save`` and ``fp.load`` carry them along.

    Args:
        model: any module.
        inputs: example inputs of its forward; the masked model is run on them once.
        mask: a name of ``fp.list_methods("masks")``, an object like those, or what was decided elsewhere: name of a parameter ->
            bool of its shape, False where a weight is zero for good.
        weights: what is kept: a share of all these weights (0.5), a count ("1.2M"), or the share of each parameter by name (others
            stay whole). A fixed pattern takes None, or what it keeps anyway.
        score: what single weights are worth: "magnitude", "random", another registered name, or an object.
        allocator: how ``weights`` is shared out among the tensors: a name of ``fp.list_methods("allocators")`` ("lamp") or an
            object; the mask's own way if None.
        batches: for a score or an allocator that looks at data.
        ignore: modules, dotted names or patterns whose weights stay whole and are not counted.
        **options: of the mask's constructor (``m=4``), where it is given by name.

    Raises:
        BudgetError: the mask cannot keep that; a fixed pattern names the nearest that it can.
        ModelError: a weight is NaN or computed from other parameters, an entry of ``ignore`` covers nothing, or the model does not
            run on ``inputs``.
        UnknownNameError: there is no such mask, score, allocator or option.

    Example:
        >>> import torch, flowprune as fp
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> sparse = fp.mask(model, torch.zeros(1, 8), mask="n_m", weights=0.5)
        >>> [int((layer.weight != 0).sum()) for layer in (sparse[0], sparse[2])]
        [16, 4]
    """
    if isinstance(mask, Mapping):
        if weights is not None or allocator is not None or options:
            raise FlowpruneError("masks that are decided take no budget, allocator or options; leave those out")
        found = masked(model, mask, {"mask": None, "options": {}})
        check_runs(found, inputs)
        return found
    kind: Mask = _built(REGISTRY, mask, options)
    scores = _scores(model, _built(SCORES, score, {}), batches, ignore)
    keep = _keep(weights, scores)
    if allocator is not None:
        keep = _allocated(model, scores, kind, keep, allocator, batches)
    name = mask if isinstance(mask, str) else REGISTRY.name_of(mask)
    found = masked(model, kind.select(scores, keep), {"mask": name, "options": options})
    check_runs(found, inputs)
    return found


def _built(registry: Any, method: Any, options: Mapping[str, Any]) -> Any:
    if isinstance(method, str):
        return registry.built(method, options)
    if options:
        raise FlowpruneError(
            f"options are for a {registry.kind} given by name; build the {type(method).__name__} with {', '.join(options)}"
        )
    return method


def _scores(model: nn.Module, score: WeightScore, batches: Iterable[Any] | None, ignore: Ignored) -> dict[str, Tensor]:
    """What every weight is worth; those that an earlier mask took are worth less than any other."""
    scores = score(model, batches)
    chosen = {name: scores[name] for name in not_ignored(scores, model, ignore)}
    if not chosen:
        raise FlowpruneError("ignore= leaves no weights to mask")
    held = held_where(model, {name: mask for name, mask in lineage_of(model).masks.items() if name in chosen})
    for name, stays in held.items():
        gone = ~stays.to(chosen[name].device)
        chosen[name] = torch.where(gone, chosen[name].min() - 1, chosen[name])
    return chosen


def _keep(weights: float | str | Mapping[str, float] | None, scores: Mapping[str, Tensor]) -> Keep | None:
    """The budget as a mask takes it."""
    if not isinstance(weights, str):
        return weights
    total = sum(score.numel() for score in scores.values())
    try:
        count = budget_from(params=weights).target(total)
    except BudgetError as error:
        raise BudgetError(str(error).replace("params", "weights")) from None
    return min(1.0, count / total)


def _allocated(
    model: nn.Module,
    scores: Mapping[str, Tensor],
    mask: Mask,
    keep: Keep | None,
    allocator: str | Allocator,
    batches: Iterable[Any] | None,
) -> Keep:
    """The share of each tensor."""
    if not isinstance(keep, float | int):
        raise BudgetError("an allocator shares out one budget; give weights= as a share or a count")
    if isinstance(allocator, str):
        allocator = ALLOCATORS.built(allocator, {}, None if batches is None else lambda: batches)
    assert not isinstance(allocator, str)
    problem = weight_problem(model, scores, mask, keep)
    return kept_shares(problem, allocator(problem))
