"""Methods against one another: the same model, data, budgets, seeds, loop, fine-tuning and counting for each."""

from __future__ import annotations

from flowprune.studies.comparison.comparing import compare
from flowprune.studies.comparison.comparison_recipe import ComparisonRecipe, load_comparison_recipe

__all__ = ["ComparisonRecipe", "compare", "load_comparison_recipe"]
