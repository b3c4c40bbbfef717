"""What dead filters say for good, proved by walking through the trace, and where it goes when they leave.

Nothing here runs the model: the operators of the traced pass are interpreted on what is known whatever the inputs are.
"""

from flowprune.engine.constants.filter_constants import constants_behind
from flowprune.engine.constants.folding import ZERO, Folding, fold_constants
from flowprune.engine.constants.known_constants import KnownConstants, known_constants

__all__ = ["ZERO", "Folding", "KnownConstants", "constants_behind", "fold_constants", "known_constants"]
