"""How much leaves where: one allocator a file, all of them callables from a problem to levels."""

from flowprune.engine.interfaces import Allocator
from flowprune.methods.allocators.erdos_renyi_kernel import ErdosRenyiKernel
from flowprune.methods.allocators.global_rank import GlobalRank
from flowprune.methods.allocators.lamp import LAMP
from flowprune.methods.allocators.rate_distortion import RateDistortion
from flowprune.methods.allocators.registry import REGISTRY
from flowprune.methods.allocators.uniform import Uniform
from flowprune.methods.allocators.uniform_plus import UniformPlus

__all__ = [
    "LAMP",
    "REGISTRY",
    "Allocator",
    "ErdosRenyiKernel",
    "GlobalRank",
    "RateDistortion",
    "Uniform",
    "UniformPlus",
]
