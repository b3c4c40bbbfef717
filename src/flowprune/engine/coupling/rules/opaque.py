"""Scripted parts (torch.jit): nobody sees what becomes of the channels inside."""

from __future__ import annotations

from flowprune.engine.coupling.propagation import Propagation
from flowprune.engine.coupling.rules import rule
from flowprune.engine.tracing import Operation


@rule("flowprune.scripted")
def scripted_part(operation: Operation, state: Propagation) -> None:
    """All that the part reads stays, its own weights included; what it returns is nobody's channels."""
    part = operation.argument("part")
    state.freeze_inputs(operation, f"passes through {part}, which is scripted or traced (torch.jit): an opaque part")
