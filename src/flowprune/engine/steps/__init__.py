"""What was done to a model since it was built: the steps, and the masks that are held."""

from flowprune.engine.steps.holding import HeldMasks, hold
from flowprune.engine.steps.lineage import Lineage, Step, attach_lineage, lineage_of
from flowprune.engine.steps.masking import masked

__all__ = ["HeldMasks", "Lineage", "Step", "attach_lineage", "hold", "lineage_of", "masked"]
