"""What a channel is worth: one criterion a file, all of them callables from coupled groups to one number per
channel."""

from flowprune.engine.interfaces import Importance
from flowprune.methods.importance.activation_mean import ActivationMean
from flowprune.methods.importance.apoz import APoZ
from flowprune.methods.importance.batch_norm_gamma import BatchNormGamma
from flowprune.methods.importance.chip import CHIP
from flowprune.methods.importance.filter_scale import FilterScale
from flowprune.methods.importance.fpgm import FPGM
from flowprune.methods.importance.hessian import Hessian
from flowprune.methods.importance.hrank import HRank
from flowprune.methods.importance.l1 import L1
from flowprune.methods.importance.l2 import L2
from flowprune.methods.importance.nuclear_norm import NuclearNorm
from flowprune.methods.importance.random import Random
from flowprune.methods.importance.registry import REGISTRY
from flowprune.methods.importance.taylor_activation import TaylorActivation
from flowprune.methods.importance.taylor_weight import TaylorWeight

__all__ = [
    "CHIP",
    "FPGM",
    "L1",
    "L2",
    "REGISTRY",
    "APoZ",
    "ActivationMean",
    "BatchNormGamma",
    "FilterScale",
    "HRank",
    "Hessian",
    "Importance",
    "NuclearNorm",
    "Random",
    "TaylorActivation",
    "TaylorWeight",
]
