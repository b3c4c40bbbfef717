"""The table of a plan's layers where some of them are gone with their branches."""

from __future__ import annotations

from collections.abc import Sequence

from flowprune.engine.allocation import LayerChange


def merged_layers(dense: Sequence[LayerChange], opened: Sequence[LayerChange]) -> tuple[LayerChange, ...]:
    """Every layer of the dense model, with what is left of it; nothing of those whose branch is gone."""
    after = {change.layer: change for change in opened}
    result: list[LayerChange] = []
    for change in dense:
        left = after.get(change.layer)
        ends = (left.channels[1], left.macs[1], left.params[1]) if left is not None else (0, 0, 0)
        result.append(
            LayerChange(
                change.layer, (change.channels[0], ends[0]), (change.macs[0], ends[1]), (change.params[0], ends[2])
            )
        )
    return tuple(result)
