"""From a budget to a plan: how many channels leave each coupled group, counted exactly."""

from flowprune.allocation.budget import Budget, budget_from
from flowprune.allocation.costs import CountModel, macs_model, params_model
from flowprune.allocation.plan import AttributeChange, Fold, LayerChange, Plan
from flowprune.allocation.search import Ranking, lost_for_channels, lost_for_count, rank

__all__ = [
    "AttributeChange",
    "Budget",
    "CountModel",
    "Fold",
    "LayerChange",
    "Plan",
    "Ranking",
    "budget_from",
    "lost_for_channels",
    "lost_for_count",
    "macs_model",
    "params_model",
    "rank",
]
