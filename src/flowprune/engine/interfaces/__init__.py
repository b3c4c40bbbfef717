"""The protocols of everything that is handed in: the engine and the loops know these, and nobody who implements them."""

from flowprune.engine.interfaces.allocator import AllocationProblem, Allocator, Levels
from flowprune.engine.interfaces.recovery import CutSlices, Recovery
from flowprune.engine.interfaces.regularizer import Outcome, Regularizer, Training
from flowprune.engine.interfaces.storage import Codec, Parts, Quantized, Quantizer, Replacement
from flowprune.engine.interfaces.worth import Importance, WeightScore
from flowprune.engine.interfaces.zeros import Keep, Mask

__all__ = [
    "AllocationProblem",
    "Allocator",
    "Codec",
    "CutSlices",
    "Importance",
    "Keep",
    "Levels",
    "Mask",
    "Outcome",
    "Parts",
    "Quantized",
    "Quantizer",
    "Recovery",
    "Regularizer",
    "Replacement",
    "Training",
    "WeightScore",
]
