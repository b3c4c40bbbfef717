"""The verbs: ``plan`` what to cut from a model, ``prune`` it, or ``prune_iteratively``, with training in between."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any, overload

import torch
from torch import nn

from flowprune.engine.allocation import Budget, Plan, Shares, budget_from
from flowprune.engine.branches.removal import BranchRemoval
from flowprune.engine.interfaces import Allocator, Importance, Outcome
from flowprune.engine.measuring import check_finite, filter_scales
from flowprune.engine.planning import CoupledModel, Request, Selection, assemble, select
from flowprune.engine.planning.exemptions import Frozen, Ignored
from flowprune.engine.planning.falling_short import attempts, warn_if_short, with_reasons
from flowprune.engine.planning.garbage_collection import collector_paused
from flowprune.engine.planning.heads import plan_both
from flowprune.engine.planning.latency_budget import within_latency
from flowprune.engine.planning.liked_widths import with_liked_widths
from flowprune.engine.planning.request import LARGEST_CUT, AskedOnce
from flowprune.engine.planning.widths import Widths
from flowprune.engine.signatures import Branches, Heads, Inputs, Scope
from flowprune.engine.steps.lineage import attach_lineage, lineage_of
from flowprune.engine.surgery import cut, cut_optimizer
from flowprune.engine.surgery.beside_forward import follow_other_methods
from flowprune.errors import BudgetError, CertificateError, UnreachableBudgetError
from flowprune.methods.importance import Random

Finetune = Callable[[nn.Module, int], nn.Module | None]
ATTEMPTS = 32
"""How often a cut may be refused and tried again with the refused part frozen."""


def plan(
    model: nn.Module,
    inputs: Inputs,
    *,
    importance: Importance | None = None,
    macs: float | str | None = None,
    params: float | str | None = None,
    channels: Shares | None = None,
    threshold: float | None = None,
    latency: float | str | None = None,
    scope: Scope = "global",
    largest_cut: Shares = LARGEST_CUT,
    round_to: int | str = 1,
    fold_tolerance: float = 0.05,
    heads: Heads = "whole",
    ignore: Ignored = (),
    freeze: Frozen | None = None,
    branches: Branches = False,
    also: Collection[str] = (),
    outcome: Outcome | None = None,
    allocator: Allocator | str | None = None,
    backend: str = "pytorch",
) -> Plan:
    """Decide what to cut, and certify it; ``model`` is not touched.

    Args:
        model: any eager ``nn.Module``.
        inputs: example inputs of its forward: a tensor, a tuple of positional or a dictionary of keyword arguments. Only their
            shapes matter.
        importance: what a channel is worth; not needed for ``threshold``.
        macs, params: what is kept, as a share (0.5) or a count ("60M"); multiply-accumulates are an image's.
        channels: the share of every coupled group that is kept; or a mapping of layers (names or patterns, the first that matches
            counts) to shares, the rest stays whole.
        threshold: remove filters whose scale |gamma| sqrt(var / (var + eps)) is below this share of the network's 90th percentile.
        latency: the time of one forward on ``inputs`` that is kept, on this machine, in evaluation mode: a share of the dense
            model's (0.7) or a time ("4ms"). Candidates are cut and timed.
        scope: "global" ranks all channels together, "local" takes the same share from every group (not for ``channels`` and
            ``threshold``).
        largest_cut: at most this share of a coupled group, and so of any layer, leaves (not for ``threshold``, where what is dead
            leaves); or a mapping of layers to shares, 0.9 for the rest.
        round_to: the width of every layer that loses channels becomes a multiple of this ("auto": of what this machine likes), the
            nearest to what the budget asks for, and but under ``channels`` never above it; ``plan.rounded`` says what was reached.
        fold_tolerance: largest change that folding a constant channel into a padded consumer may make to the consumer's output, in
            standard deviations of that output (absolute, where no batch norm follows). Beyond it a dead filter stays.
        heads: what attention loses: "whole" heads, the same number of channels "inside" each, or "both". Inside, the widths of
            queries and keys stay where the scale of the scores is computed from them.
        ignore: modules, dotted names or patterns ("layer1.*") that are left alone: all dimensions of their parameters, their values
            and their attributes.
        freeze: dimensions that stay, by name or pattern of a parameter or module: ``{"layer1.0.conv1.weight": [0]}``.
        branches: whether the dead ends of residual branches leave, too, while their stream lives on: a branch then computes its
            live ends and puts them at their places, and one without any leaves a constant, or nothing. Dead is what ``threshold``
            says, under other budgets what is below 0.01; it leaves before anything else does. True changes a branch where that
            saves time, "always" every branch with dead ends; ``plan.branches`` and ``plan.branches_left`` say what became of which.
        also: names of methods without required arguments, of any modules, that will be called on the small model, beside those
            named ``fuse*``, ``reparameterize*`` and ``switch_to_deploy``. Integer attributes that only they read follow the cut;
            where they will not do to the small model what they do to the dense one, a ``FlowpruneWarning`` names them.
        outcome: what a training has decided, as a regularizer's ``finish`` returns it. With no budget exactly the filters in its
            ``leaves`` leave, with all that is coupled to them; a channel of which some maker is not among them stays, and
            ``plan.stays`` says why. Under a budget its ``scores`` stand in an importance's place.
        allocator: who says how many channels leave where under ``macs``, ``params`` or ``latency``, while the importance says
            which: one of ``flowprune.methods.allocators``, or the name of one that needs no data.
        backend: what a budget of time is timed in, and "auto" widths are for: "pytorch", "compiled" or "onnxruntime".

    Warns:
        FlowpruneWarning: the plan is empty, keeps twice what ``channels`` asks for, or what an ``outcome`` says leaves; with why.

    Raises:
        BudgetError: for a malformed budget, or one that no allowed cut reaches; then with the reasons.
        ModelError: for NaN weights, a wrapper, a model that cannot be copied, or an unknown name in ``ignore``, ``freeze`` or
            ``also``.
        TraceError: if the forward raises on the example inputs.
        CertificateError: if no part of the cut can be certified.

    Example:
        >>> import torch, flowprune as fp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> made = fp.plan(model, torch.zeros(1, 4), importance=fp.importance.L2(), macs=0.5)
        >>> made.macs, made.filters_removed
        ((48, 24), 4)
    """
    budget = budget_from(
        macs=macs, params=params, channels=channels, threshold=threshold, latency=latency, scope=scope, outcome=outcome
    )
    others = (largest_cut, round_to, fold_tolerance, heads, ignore, freeze, branches, also, outcome, allocator, backend)
    return plan_as_asked(model, inputs, Request(budget, importance, *others))


@collector_paused()
def plan_as_asked(model: nn.Module, inputs: Any, request: Request) -> Plan:
    """What ``plan`` does, for a request; it raises and warns alike."""
    if request.round_to == "auto":
        return with_liked_widths(request, partial(plan_as_asked, model, inputs))
    if request.outcome is not None:
        from flowprune.engine.planning.decided import with_decided_scores

        request = with_decided_scores(request)
    else:
        request.check_criterion()
    check_finite(model)
    choose: Callable[..., Selection] = select
    if request.allocator is not None:
        from flowprune.engine.planning.channel_problem import ByAllocator
        from flowprune.methods.allocators.registry import allocator_named

        allocator = allocator_named(request.allocator)
        request, choose = replace(request, allocator=allocator), ByAllocator(allocator)
    if request.heads == "both":
        return plan_both(plan_as_asked, model, inputs, request)
    coupled = CoupledModel.of(model, inputs, request.ignore, request.freeze, request.heads)
    scales = filter_scales(model, inputs, graph=coupled.graph, by_weights=request.budget.kind == "threshold")
    if request.importance is not None:
        request = replace(request, importance=AskedOnce(request.importance))
    removal = BranchRemoval.of(model, inputs, coupled, scales, request) if request.branches else None

    def planned(budget: Budget) -> Plan:
        asked = request.under(budget)
        for _ in range(ATTEMPTS):
            recount = None if removal is None or removal.is_empty else removal.count
            selection = choose(coupled, asked, model, inputs, scales, recount)
            made = assemble(selection, coupled, asked)
            if not isinstance(made, Plan):
                coupled.settle(made)
                continue
            refusal = None if made.is_empty else coupled.refusal_of(made, model, inputs, selection.removed)
            if refusal is not None:
                coupled.freeze_refused(refusal)
                continue
            if removal is None or removal.is_empty:
                return made if removal is None else replace(made, branches_left=dict(removal.left))
            whole = removal.carried_out(made, selection, asked)
            if whole is not None:
                return whole
        raise CertificateError(
            f"no cut of {type(model).__name__} could be certified in {ATTEMPTS} attempts; the last refusal: {coupled.last_refusal}"
        )

    by_time = partial(within_latency, model, inputs, request.budget, planned, partial(cut, model), request.backend)
    try:
        found = by_time() if request.budget.kind == "latency" else planned(request.budget)
    except UnreachableBudgetError as error:
        raise with_reasons(error, coupled.coupling) from None
    if request.budget.kind in ("threshold", "channels", "outcome"):  # the others are met, or have raised
        warn_if_short(found, request.budget)
    return follow_other_methods(model, inputs, found, coupled.graph, request.also)


@overload
def prune(model: nn.Module, plan_or_inputs: Plan | Inputs, *, optimizer: None = None, **budget: Any) -> nn.Module: ...
@overload
def prune(
    model: nn.Module, plan_or_inputs: Plan | Inputs, *, optimizer: torch.optim.Optimizer, **budget: Any
) -> tuple[nn.Module, torch.optim.Optimizer]: ...
def prune(
    model: nn.Module, plan_or_inputs: Plan | Inputs, *, optimizer: torch.optim.Optimizer | None = None, **budget: Any
) -> nn.Module | tuple[nn.Module, torch.optim.Optimizer]:
    """A new, smaller module; ``model`` and ``optimizer`` are untouched.

    Args:
        model: the dense model.
        plan_or_inputs: a ``Plan``, or example inputs; with the latter, ``budget`` is handed to ``plan``.
        optimizer: if given, one whose state is cut the same way is returned beside the module.
        **budget: the keyword arguments of ``plan``.

    Raises:
        ModelError: if the plan was made for another architecture.
        Whatever ``plan`` raises, where it is called.

    Example:
        >>> import torch, flowprune as fp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> small, optimizer = fp.prune(
        ...     model, torch.zeros(1, 4), importance=fp.importance.L2(), macs=0.5, optimizer=optimizer
        ... )
        >>> small
        Sequential(
          (0): Linear(in_features=4, out_features=4, bias=True)
          (1): ReLU()
          (2): Linear(in_features=4, out_features=2, bias=True)
        )
    """
    if isinstance(plan_or_inputs, Plan):
        if budget:
            raise BudgetError(
                f"a plan already says what to cut; drop {', '.join(budget)}, or pass example inputs instead of the plan"
            )
        made = plan_or_inputs
    else:
        made = plan(model, plan_or_inputs, **budget)
    small = cut(model, made)
    attach_lineage(small, lineage_of(model).with_plan(made.as_dict()))
    if optimizer is None:
        return small
    return small, cut_optimizer(optimizer, model, small, made)


def prune_iteratively(
    model: nn.Module, inputs: Inputs, *, steps: int, finetune: Finetune | None = None, **options: Any
) -> nn.Module:
    """Cut a model in several steps; ``model`` is untouched, and the last step ends at the budget as a single cut would.

    What is kept falls by the same factor in every step: with ``macs=0.25`` and two steps to a half, then to a quarter of the dense
    model's. So does the share of the channels that every group keeps, and ``largest_cut`` is of the dense model's groups, too.
    Under ``latency`` the steps fall towards the MACs that a cut by chance has in that time, and the last one is timed.

    Args:
        model: the dense model.
        inputs: example inputs.
        steps: how many.
        finetune: is given the small model and the number of the step (from 1) after every step but the last; trains it in place,
            or returns the model to go on with.
        **options: the keyword arguments of ``plan``: any budget but a threshold, and an importance, which is asked anew in every
            step; ``branches`` are changed in the last.

    Returns:
        The small model; its lineage holds every step's plan.

    Raises:
        BudgetError: if the budget is a threshold, or cannot be met; before anything is trained.
        Whatever ``plan`` raises.

    Example:
        >>> import torch, flowprune as fp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> def finetune(small, step):
        ...     print(f"step {step}: {small[0].out_features} channels to train on")
        >>> small = fp.prune_iteratively(
        ...     model, torch.zeros(1, 4), steps=2, finetune=finetune, importance=fp.importance.L2(), macs=0.25
        ... )
        step 1: 4 channels to train on
        >>> small[0].out_features
        2
    """
    return prune_in_steps(model, inputs, Request.of(**options), steps, finetune)


def prune_in_steps(
    model: nn.Module, inputs: Any, request: Request, steps: int, finetune: Finetune | None = None
) -> nn.Module:
    """What ``prune_iteratively`` does, for a request."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise BudgetError(f"steps={steps!r} is not a number of steps: use a whole number such as 3")
    kind = request.budget.kind
    if kind == "threshold":
        raise BudgetError(f"{request.budget} cannot be met in steps; use another kind of budget, or a single cut")
    if request.outcome is not None:
        raise BudgetError("outcome= is of the whole model, and cannot be cut in steps; use a single cut")
    possible = plan_as_asked(model, inputs, replace(request, importance=Random(), allocator=None))
    dense, smallest = possible.params if kind == "params" else possible.macs
    target, time = possible.target or smallest, possible.latency.get("target")
    widths = Widths(model, inputs, request)
    small = model
    for step in range(1, steps + 1):
        # A branch whose ends are put at places holds its stream: nothing of that could leave in a later step.
        asked = replace(widths.request(step / steps, dense, target, time), branches=step == steps and request.branches)
        with attempts():  # what is to be said was said of the whole
            made = plan_as_asked(small, inputs, asked)
        if not made.is_empty or small is model:
            small = prune(small, made)
            widths.follow(made)
        if finetune is not None and step < steps:
            small = finetune(small, step) or small
    return small
