"""How accuracy comes back after a cut."""

from flowprune.methods.recovery.similarity_preserving import similarity_preserving_loss

__all__ = ["similarity_preserving_loss"]
