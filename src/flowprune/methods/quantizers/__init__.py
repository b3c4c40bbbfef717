"""Fewer bits for weights: one quantizer a file."""

from flowprune.engine.interfaces import Quantizer
from flowprune.methods.quantizers._shared_values.shared_values import SharedValues
from flowprune.methods.quantizers.cumulative_retraining import CumulativeRetraining, summed_by_value
from flowprune.methods.quantizers.entropy_constrained import EntropyConstrained
from flowprune.methods.quantizers.grid_training import GridTraining
from flowprune.methods.quantizers.mixed_precision import ChannelGrids, MixedPrecision
from flowprune.methods.quantizers.probabilistic_sharing import ProbabilisticSharing
from flowprune.methods.quantizers.quantizing import quantize
from flowprune.methods.quantizers.registry import REGISTRY
from flowprune.methods.quantizers.uniform_levels import UniformLevels
from flowprune.methods.quantizers.weight_clusters import WeightClusters

__all__ = [
    "REGISTRY",
    "ChannelGrids",
    "CumulativeRetraining",
    "EntropyConstrained",
    "GridTraining",
    "MixedPrecision",
    "ProbabilisticSharing",
    "Quantizer",
    "SharedValues",
    "UniformLevels",
    "WeightClusters",
    "quantize",
    "summed_by_value",
]
