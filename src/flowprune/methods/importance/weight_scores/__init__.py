"""What single weights are worth: one criterion a file, each a callable from a model to one tensor for each parameter."""

from flowprune.engine.interfaces import WeightScore
from flowprune.methods.importance.weight_scores.random_weights import RandomWeights
from flowprune.methods.importance.weight_scores.registry import REGISTRY
from flowprune.methods.importance.weight_scores.weight_magnitude import WeightMagnitude

__all__ = ["REGISTRY", "RandomWeights", "WeightMagnitude", "WeightScore"]
