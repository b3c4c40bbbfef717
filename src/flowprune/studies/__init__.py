"""Programs over all of the package: runs from a recipe, comparisons, scans, pictures."""
