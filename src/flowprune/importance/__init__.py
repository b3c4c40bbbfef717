"""What a channel is worth: one criterion a file, all of them callables from coupled groups to one number per
channel."""

from flowprune.importance.batch_norm_gamma import BatchNormGamma
from flowprune.importance.filter_scale import FilterScale
from flowprune.importance.l1 import L1
from flowprune.importance.l2 import L2
from flowprune.importance.nuclear_norm import NuclearNorm
from flowprune.importance.protocol import Importance
from flowprune.importance.random import Random
from flowprune.importance.registry import REGISTRY

__all__ = ["L1", "L2", "REGISTRY", "BatchNormGamma", "FilterScale", "Importance", "NuclearNorm", "Random"]
