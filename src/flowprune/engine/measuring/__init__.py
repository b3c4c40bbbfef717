"""What a model costs and how much of it is idle: MACs, parameters, sparsity, dead filters."""

from flowprune.engine.measuring.cost import LayerMeasurement, Measurement, measure
from flowprune.engine.measuring.dead_filters import DeadFilters, DeadInLayer, dead_filters
from flowprune.engine.measuring.filter_scales import filter_scales, is_dead, reference_scale
from flowprune.engine.measuring.finiteness import check_finite, finite, is_finite
from flowprune.engine.measuring.sparsity import LayerSparsity, Sparsity, sparsity

__all__ = [
    "DeadFilters",
    "DeadInLayer",
    "LayerMeasurement",
    "LayerSparsity",
    "Measurement",
    "Sparsity",
    "check_finite",
    "dead_filters",
    "filter_scales",
    "finite",
    "is_dead",
    "is_finite",
    "measure",
    "reference_scale",
    "sparsity",
]
