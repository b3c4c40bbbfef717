"""Which weights are zero for good: one kind of mask a file, with the same ``select`` at initialisation, in training and on trained
weights."""

from flowprune.engine.interfaces import Mask
from flowprune.methods.masks.hetconv import HetConv
from flowprune.methods.masks.kept_weights import density
from flowprune.methods.masks.masking import mask
from flowprune.methods.masks.n_m import NM
from flowprune.methods.masks.predefined_sparsity import PredefinedSparsity
from flowprune.methods.masks.registry import REGISTRY
from flowprune.methods.masks.rgp import RGP
from flowprune.methods.masks.ssc import SSC
from flowprune.methods.masks.weight import Weight

__all__ = ["NM", "REGISTRY", "RGP", "SSC", "HetConv", "Mask", "PredefinedSparsity", "Weight", "density", "mask"]
