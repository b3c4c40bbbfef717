"""What was done to a model since it was built: the steps, and the masks that are held."""

from flowprune.engine.steps.carried_masks import masked
from flowprune.engine.steps.holding import HeldMasks, hold
from flowprune.engine.steps.lineage import Lineage, Step, attach_lineage, lineage_of

__all__ = ["HeldMasks", "Lineage", "Step", "attach_lineage", "hold", "lineage_of", "masked"]
