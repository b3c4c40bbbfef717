"""From a model, a criterion and a budget to a plan: where coupling, importance and allocation meet."""

from flowprune.engine.planning.assembly import assemble
from flowprune.engine.planning.coupled_model import CoupledModel
from flowprune.engine.planning.request import Request
from flowprune.engine.planning.selection import Selection, select

__all__ = ["CoupledModel", "Request", "Selection", "assemble", "select"]
