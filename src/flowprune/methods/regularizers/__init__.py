"""Penalties that act during training, by name; each is one file here, or comes through an entry point."""

from flowprune.engine.interfaces import Regularizer
from flowprune.methods.regularizers.registry import REGISTRY

__all__ = ["REGISTRY", "Regularizer"]
