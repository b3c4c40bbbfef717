"""What a channel is worth: one criterion a file, all of them callables from coupled groups to one number per
channel."""

from flowprune.importance.activation_mean import ActivationMean
from flowprune.importance.apoz import APoZ
from flowprune.importance.batch_norm_gamma import BatchNormGamma
from flowprune.importance.chip import CHIP
from flowprune.importance.filter_scale import FilterScale
from flowprune.importance.fpgm import FPGM
from flowprune.importance.hessian import Hessian
from flowprune.importance.hrank import HRank
from flowprune.importance.l1 import L1
from flowprune.importance.l2 import L2
from flowprune.importance.nuclear_norm import NuclearNorm
from flowprune.importance.protocol import Importance
from flowprune.importance.random import Random
from flowprune.importance.registry import REGISTRY
from flowprune.importance.taylor_activation import TaylorActivation
from flowprune.importance.taylor_weight import TaylorWeight

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
