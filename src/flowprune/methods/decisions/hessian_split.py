"""HAP's decision: which channels stay whole, which become 1x1 and which leave, under one budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowprune.engine.allocation import Plan, budget_from
from flowprune.engine.interfaces import Importance, Outcome
from flowprune.engine.measuring import filter_scales, measure
from flowprune.engine.planning import CoupledModel, Request, assemble, select
from flowprune.engine.tracing import FilterLayer
from flowprune.errors import CertificateError, UnreachableBudgetError
from flowprune.methods.decisions.registry import REGISTRY
from flowprune.methods.importance import L2, Hessian, Random
from flowprune.methods.recovery._calibration.in_step import calibration_inputs
from flowprune.methods.replacements.implant_masks import middle_taps
from flowprune.methods.replacements.implant_split import three_way_split
from flowprune.methods.replacements.neural_implant import NeuralImplant

ATTEMPTS = 32


class _Split(NamedTuple):
    """A three-way split carried out on paper.

    Attributes:
        leaves: name of a weight -> numbers of the filters that leave.
        implants: dotted path of a convolution -> the filters that become 1x1.
        plan, removed: the cut of what leaves, and its components, [labels].
        macs: of an image, with the implants.
    """

    leaves: dict[str, Tensor]
    implants: dict[str, list[int]]
    plan: Plan
    removed: NDArray[np.bool_]
    macs: int


@REGISTRY.register("hessian_split")
class HessianSplit:
    """Of each layer, some channels leave and some become 1x1, by the loss's curvature along them and a budget of MACs.

    Yu et al., Hessian-Aware Pruning and Optimal Neural Implant (HAP), WACV 2022, arXiv 2101.08940. Channels are ranked over the
    whole network by their sensitivity ``Tr(H_j) / (2 p_j) |W_j|^2`` (``importance.Hessian``). Of the share that does not stay whole
    the least sensitive leave, and the ``implants`` above them become a trainable 1x1 each (``three_way_split``, ``NeuralImplant``).

    The authors' code takes a ratio of the filters; here it is the smallest ratio at which the network with its implants has no
    more MACs than asked. Theirs ranks every layer's filters by themselves and lets what an addition joins follow; here what can
    only leave together costs the sum of what each costs, and becomes 1x1 together. Equal sensitivities (an estimate below zero
    counts as zero) are ordered by ``importance.L2``; their threshold takes all equals.

    A channel that is to become 1x1 stays whole where nothing that makes it can: linear layers, grouped and depthwise
    convolutions, kernels of even size.

    Args:
        batches: labelled calibration images; read once and kept.
        macs: what the network with its implants keeps, as ``flowprune.plan`` takes it.
        implants: of what does not stay whole, the share that becomes 1x1.
        cap: the largest share of a coupled group that does not stay whole.
        probes: vectors of Hutchinson's estimate; the authors' function takes 300, their command line 3.
        seed: of the vectors.

    Raises:
        BudgetError: ``macs`` is no budget.
        FlowpruneError: another option has a value it cannot take.

    Example:
        >>> outcome = HessianSplit(batches, macs=0.5)(model)
        >>> small = fp.prune(model, fp.plan(model, inputs, outcome=outcome))
    """

    needs_data: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        macs: float | str = 0.5,
        implants: float = 0.1,
        cap: float = 0.95,
        probes: int = 10,
        seed: int = 0,
    ) -> None:
        self._batches, self._budget = list(batches), budget_from(macs=macs)
        self._implants, self._cap = implants, cap
        three_way_split({"": torch.zeros(1)}, 0, implants=implants, cap=cap)  # which says what is wrong
        self._hessian = Hessian(self._batches, probes=probes, seed=seed, aggregation="sum")

    def __call__(self, model: nn.Module) -> Outcome:
        """What leaves, and masks of what becomes 1x1: of such a filter only the middle tap is not zero for good.

        Raises:
            DataError: no batch, or one without labels.
            UnreachableBudgetError: the budget cannot be met.
            TraceError, ModelError, CertificateError: as ``plan``.
        """
        return self._outcome(model, calibration_inputs(model, self._batches)[0], self._hessian)

    def in_steps(self, model: nn.Module, inputs: Any, steps: int) -> list[HessianSplit]:
        """Decisions for so many cuts: what is kept falls by one factor from each to the next, and only the last has implants.

        Args:
            model: before the first cut.
            inputs: example inputs.
            steps: how many cuts.
        """
        dense = measure(model, inputs).macs
        target = self._budget.target(dense)
        kept = [max(target, round(dense * (target / dense) ** (step / steps))) for step in range(1, steps)]
        asked: dict[str, Any] = {"cap": self._cap, "probes": self._hessian.probes, "seed": self._hessian.seed}
        on_the_way = [HessianSplit(self._batches, macs=f"{macs}", implants=0, **asked) for macs in kept]
        return [*on_the_way, HessianSplit(self._batches, macs=f"{target}", implants=self._implants, **asked)]

    def check(self, model: nn.Module, inputs: Any) -> None:
        """Split by chance: whether the budget can be met is a matter of the architecture. Raises as the decision does."""
        self._outcome(model, inputs, Random())

    def _outcome(self, model: nn.Module, inputs: Any, importance: Importance) -> Outcome:
        coupled = CoupledModel.of(model, inputs)
        scales = filter_scales(model, inputs, graph=coupled.graph)
        for _ in range(ATTEMPTS):
            groups = coupled.coupling.groups
            ranks = _ranks(importance(model, inputs, groups), L2()(model, inputs, groups))
            found = self._smallest(partial(self._split, model, inputs, coupled, scales, ranks), ranks)
            if found is None:
                continue  # the code's integers could not follow, and the channels were grouped again
            refusal = None if found.plan.is_empty else coupled.refusal_of(found.plan, model, inputs, found.removed)
            if refusal is None:
                return Outcome(leaves=found.leaves, masks=middle_taps(model, found.implants))
            coupled.freeze_refused(refusal)
        raise CertificateError(f"no split of {type(model).__name__} could be certified in {ATTEMPTS} attempts")

    def _smallest(self, split_at: Callable[[float], _Split | None], ranks: Mapping[str, Tensor]) -> _Split | None:
        """The split at the smallest ratio that meets the budget; the higher the ratio, the fewer MACs are left."""
        channels = sum(map(len, ranks.values()))
        found: _Split | None = None
        low, high, fewest = 0, channels, 0
        while low <= high:
            middle = (low + high) // 2
            tried = split_at(middle / max(1, channels))
            if tried is None:
                return None
            fewest = tried.macs
            if tried.macs <= self._budget.target(tried.plan.macs[0]):
                found, high = tried, middle - 1
            else:
                low = middle + 1
        if found is None:
            raise UnreachableBudgetError(
                f"{self._budget} cannot be met: with cap={self._cap:g} and implants={self._implants:g} {fewest:,} MACs are left; "
                "ask for more, or raise cap",
                fewest,
            )
        return found

    def _split(
        self,
        model: nn.Module,
        inputs: Any,
        coupled: CoupledModel,
        scales: dict[FilterLayer, Tensor | None],
        ranks: Mapping[str, Tensor],
        ratio: float,
    ) -> _Split | None:
        """The split at a ratio; None where code counts channels so that it could not be cut, which the groups heed from now on."""
        split = three_way_split(ranks, ratio, implants=self._implants, cap=self._cap) if ranks else {}
        able = {name for name, module in model.named_modules(remove_duplicate=False) if NeuralImplant().matches(module)}
        gone: dict[str, list[Tensor]] = {}
        makes: dict[str, int] = {}
        implants: dict[str, list[int]] = {}
        for number, parts in split.items():
            for maker in coupled.coupling.groups[int(number)].makers:
                filters, path = torch.from_numpy(maker.indices), maker.name.rpartition(".")[0]
                makes[maker.name] = maker.dimension
                gone.setdefault(maker.name, []).append(filters[parts.gone].flatten())
                if parts.implants and maker.dimension == 0 and path in able:
                    implants.setdefault(path, []).extend(filters[parts.implants].flatten().tolist())
        leaves = {name: torch.cat(filters).sort().values for name, filters in gone.items()}
        request = Request.of(outcome=Outcome(leaves=leaves))
        selection = select(coupled, request, model, inputs, scales)
        made = assemble(selection, coupled, request)
        if not isinstance(made, Plan):
            coupled.settle(made)
            return None
        for name, filters in leaves.items():  # not all may: every dimension keeps two channels, for one
            leaves[name] = filters[torch.isin(filters, torch.tensor(made.removed.get(name, {}).get(makes[name], ())))]
        return _Split(leaves, implants, made, selection.removed, made.macs[1] - _spared(model, made, implants))


def _ranks(scores: Sequence[Tensor], sizes: Sequence[Tensor]) -> dict[str, Tensor]:
    """Number of a group -> the ranks of its channels among all, 0 the least worth; groups that nothing judges are left out.

    Args:
        scores: of each group, ``[channels]``, what they are ranked by.
        sizes: likewise, what equals are ranked by.
    """
    judged = [number for number, score in enumerate(scores) if bool(torch.isfinite(score).all())]
    if not judged:
        return {}
    first, then = (torch.cat([values[number] for number in judged]).numpy() for values in (scores, sizes))
    ranks = torch.from_numpy(np.lexsort((then, first)).argsort()).double()
    return dict(zip(map(str, judged), ranks.split([len(scores[number]) for number in judged]), strict=True))


def _spared(model: nn.Module, made: Plan, implants: Mapping[str, Sequence[int]]) -> int:
    """MACs of an image that filters of one tap spare, once the plan is carried out."""
    layers = {layer.layer: layer for layer in made.layers}
    spared = 0
    for path, filters in implants.items():
        taps = model.get_submodule(path).get_parameter("weight")[0, 0].numel()
        each = layers[path].macs[1] // layers[path].channels[1]
        spared += len(filters) * (each - each // taps)
    return spared
