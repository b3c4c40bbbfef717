"""Penalties that act during training, by name; each is one file here, or comes through an entry point."""

from flowprune.regularizers.interface import Regularizer
from flowprune.regularizers.registry import REGISTRY

__all__ = ["REGISTRY", "Regularizer"]
