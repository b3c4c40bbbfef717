"""Another module in a module's place: one kind a file."""

from flowprune.engine.interfaces import Replacement
from flowprune.methods.replacements.in_model import replace_modules, restorable, restore_modules
from flowprune.methods.replacements.layer_contraction import contract
from flowprune.methods.replacements.linear_expansion import ExpandedLayer, LinearExpansion
from flowprune.methods.replacements.registry import REGISTRY
from flowprune.methods.replacements.replacing import replace, restore

__all__ = [
    "REGISTRY",
    "ExpandedLayer",
    "LinearExpansion",
    "Replacement",
    "contract",
    "replace",
    "replace_modules",
    "restorable",
    "restore",
    "restore_modules",
]
