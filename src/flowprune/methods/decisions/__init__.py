"""What calibration images decide without any training: which channels leave, and the weights of the layers that read the others."""

from flowprune.methods.decisions.colliding_channels import CollidingChannels
from flowprune.methods.decisions.entropic import Entropic
from flowprune.methods.decisions.hessian_split import HessianSplit
from flowprune.methods.decisions.registry import REGISTRY

__all__ = ["REGISTRY", "CollidingChannels", "Entropic", "HessianSplit"]
