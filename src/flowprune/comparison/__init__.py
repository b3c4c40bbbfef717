"""Methods against one another: the same model, data, budgets, seeds, loop, fine-tuning and counting for each."""

from __future__ import annotations

from flowprune.comparison.comparing import compare
from flowprune.comparison.recipe import ComparisonRecipe, load_comparison_recipe

__all__ = ["ComparisonRecipe", "compare", "load_comparison_recipe"]
