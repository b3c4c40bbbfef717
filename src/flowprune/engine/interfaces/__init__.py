"""The protocols of everything that is handed in: the engine and the loops know these, and nobody who implements them."""

from flowprune.engine.interfaces.allocator import AllocationProblem, Allocator, Levels
from flowprune.engine.interfaces.mask import Keep, Mask
from flowprune.engine.interfaces.regularizer import Outcome, Regularizer, Training
from flowprune.engine.interfaces.storage import Codec, Parts, Quantized, Quantizer, Replacement
from flowprune.engine.interfaces.worth import Importance, WeightScore

__all__ = [
    "AllocationProblem",
    "Allocator",
    "Codec",
    "Importance",
    "Keep",
    "Levels",
    "Mask",
    "Outcome",
    "Parts",
    "Quantized",
    "Quantizer",
    "Regularizer",
    "Replacement",
    "Training",
    "WeightScore",
]
