"""From a model, a criterion and a budget to a plan: where coupling, importance and allocation meet."""

from flowprune.planning.assembly import assemble
from flowprune.planning.coupled_model import CoupledModel
from flowprune.planning.selection import Selection, select

__all__ = ["CoupledModel", "Selection", "assemble", "select"]
