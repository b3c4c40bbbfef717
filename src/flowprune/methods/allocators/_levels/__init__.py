"""From an order of steps, or from densities, to levels that meet the target."""
