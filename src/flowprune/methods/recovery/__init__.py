"""How accuracy comes back after a cut."""

from flowprune.engine.interfaces import Recovery
from flowprune.methods.recovery.batch_norm import BatchNorm
from flowprune.methods.recovery.distillation import Distillation
from flowprune.methods.recovery.entropic_regression import EntropicRegression
from flowprune.methods.recovery.entropic_sparsification import sparsify_entropically
from flowprune.methods.recovery.filter_sketch import FilterSketch
from flowprune.methods.recovery.frequent_directions import frequent_directions
from flowprune.methods.recovery.least_squares import LeastSquares
from flowprune.methods.recovery.over_parameterization import OverParameterization
from flowprune.methods.recovery.recover import recover
from flowprune.methods.recovery.registry import REGISTRY
from flowprune.methods.recovery.similarity_preserving import similarity_preserving_loss

__all__ = [
    "REGISTRY",
    "BatchNorm",
    "Distillation",
    "EntropicRegression",
    "FilterSketch",
    "LeastSquares",
    "OverParameterization",
    "Recovery",
    "frequent_directions",
    "recover",
    "similarity_preserving_loss",
    "sparsify_entropically",
]
