"""What our loop writes down of its regularizers after every epoch, and what it can tell them then."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from flowprune.methods.regularizers.strength.dead_share import dead_and_small_share

KNOWN_MEASURES = ("strength", "dead_share", "macs_left")
"""What the metrics say of every epoch, None where nobody knows."""


def usual_measures(
    model: nn.Module, example: Callable[[], Tensor], macs_left: Callable[[], float] | None
) -> dict[str, Callable[[], float]]:
    """What our loop can tell of ``model`` at the end of an epoch; ``example`` makes an input of it."""
    known: dict[str, Callable[[], float]] = {"dead_share": lambda: dead_and_small_share(model, example())[0]}
    return known if macs_left is None else {**known, "macs_left": macs_left}
