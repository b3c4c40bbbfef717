"""From a budget to a plan: how many channels leave each coupled group, counted exactly."""

from flowprune.engine.allocation.budget import KINDS, Budget, budget_from
from flowprune.engine.allocation.by_layer import Shares, checked_shares, share_of_classes, share_of_layer
from flowprune.engine.allocation.costs import CountModel, macs_model, params_model
from flowprune.engine.allocation.fitting import Fit, fit_channels, fit_count
from flowprune.engine.allocation.plan import AttributeChange, BranchChange, Fold, LayerChange, Plan, RoundedWidth
from flowprune.engine.allocation.rounding import Rounding, widths_of
from flowprune.engine.allocation.search import Ranking, rank

__all__ = [
    "KINDS",
    "AttributeChange",
    "BranchChange",
    "Budget",
    "CountModel",
    "Fit",
    "Fold",
    "LayerChange",
    "Plan",
    "Ranking",
    "RoundedWidth",
    "Rounding",
    "Shares",
    "budget_from",
    "checked_shares",
    "fit_channels",
    "fit_count",
    "macs_model",
    "params_model",
    "rank",
    "share_of_classes",
    "share_of_layer",
    "widths_of",
]
