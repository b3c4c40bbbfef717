"""A model traced in both modes and grouped, with exact counts of what any cut of it would leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from flowprune.engine.allocation import CountModel, Plan, macs_model, params_model
from flowprune.engine.constants import KnownConstants, known_constants
from flowprune.engine.coupling import Analysis, Coupling, analyse, group_channels
from flowprune.engine.coupling.labels import Array, Block, block_at
from flowprune.engine.coupling.notes import Freeze, Notes
from flowprune.engine.planning.contradictions import Contradiction, settle
from flowprune.engine.planning.exemptions import Exemptions, Frozen, Ignored, exemptions
from flowprune.engine.surgery import Refusal, certify, cut, cut_on_meta
from flowprune.engine.tracing import Graph, Operation, batch_size, trace
from flowprune.engine.tracing.expressions import Attribute, places_in
from flowprune.errors import CertificateError, ModelError


@dataclass
class CoupledModel:
    """The traced and grouped dense model; its groups shrink by what turns out to be uncertifiable.

    Attributes:
        graph: the evaluation pass.
        passes: the propagations of the evaluation and the training pass.
        coupling: the groups.
        macs, params: exact counts of any cut; MACs of the traced batch.
        batch: the traced batch size.
        parameters: names of the parameters (not buffers), each tensor once.
        exempt: what stays because the user says so.
        last_refusal: why the latest cut was refused.
        levelled: attributes whose channels already shrink in step.
        _constants: what was worked out for the dead filters asked for so far.
    """

    graph: Graph
    passes: list[Analysis]
    coupling: Coupling
    macs: CountModel
    params: CountModel
    batch: int
    parameters: frozenset[str]
    exempt: Exemptions = field(default_factory=Exemptions)
    last_refusal: str = ""
    levelled: set[Attribute] = field(default_factory=set)
    _constants: dict[bytes, KnownConstants] = field(default_factory=dict, repr=False)

    @property
    def runs_on_meta(self) -> bool:
        """Whether the forward runs on tensors without data in both modes."""
        return all(dense.graph.tensors == "meta" for dense in self.passes)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        inputs: Any,
        ignore: Ignored = (),
        freeze: Frozen | None = None,
        heads: str = "whole",
        places: frozenset[str] = frozenset(),
    ) -> CoupledModel:
        """Trace and group ``model``; see ``flowprune.plan`` for the arguments and what is raised, ``analyse`` for ``places``."""
        if heads not in ("whole", "inside"):
            raise ModelError(f'heads={heads!r} is not known; use "whole", "inside" or (to plan) "both"')
        graphs = _both_passes(model, inputs)
        notes, passes = analyse(model, graphs, heads, places)
        exempt = Exemptions()
        if ignore != () or freeze:
            exempt = exemptions(model, graphs[0], notes, ignore, freeze or {})
            notes = notes.frozen_first(exempt.freezes)  # as asked: the first reason to give
        parameters = frozenset(name for name, _ in model.named_parameters())
        batch = batch_size(inputs)
        coupling = group_channels(notes, passes)
        return cls(
            graphs[0],
            passes,
            coupling,
            macs_model(coupling, graphs[0]),
            params_model(coupling, graphs[0], parameters),
            batch,
            parameters,
            exempt,
        )

    def constants(self, model: nn.Module, inputs: Any, dead: Mapping[str, NDArray[np.bool_]]) -> KnownConstants:
        """What the dead filters say wherever it is read. The same for all cuts that are tried."""
        key = b"".join(mask.tobytes() for mask in dead.values())
        if key not in self._constants:
            self._constants[key] = known_constants(model, inputs, self.passes[0], dead)
        return self._constants[key]

    def kept_as_asked(self) -> frozenset[str]:
        """Tensors of which the user wants something left alone."""
        frozen = np.zeros(self.coupling.notes.labels, dtype=bool)
        for freeze in self.exempt.freezes:
            frozen[freeze.labels] = True
        slots = self.coupling.notes.slots
        return self.exempt.tensors | {s.name for s in slots if frozen[s.first : s.first + s.size].any()}

    def settle(self, conflicts: Sequence[Freeze | Contradiction]) -> None:
        """Group again so that the code's integers can follow: channels that one integer counts shrink in step, or stay."""
        self._group(settle(conflicts, self.coupling.notes, self.levelled))

    def freeze(self, freezes: Sequence[Freeze]) -> None:
        """Freeze more channels and group again."""
        self._group(self.coupling.notes.frozen(freezes))

    def _group(self, notes: Notes) -> None:
        self.coupling = group_channels(notes, self.passes)
        self.macs = macs_model(self.coupling, self.graph)
        self.params = params_model(self.coupling, self.graph, self.parameters)

    def left(self, kind: str, removed: NDArray[np.bool_]) -> int:
        """Exact MACs of an image ("macs"), or parameters, once the components of this mask ([labels]) have left."""
        return self.macs.count_removed(removed) // self.batch if kind == "macs" else self.params.count_removed(removed)

    def refusal_of(self, made: Plan, model: nn.Module, inputs: Any, removed: NDArray[np.bool_]) -> Refusal | None:
        """Why the cut that a plan proposes cannot be certified; None where it is. It is made without data where that runs.

        Args:
            made: the plan; its tensors are of the model that this is the analysis of.
            model, inputs: the dense model, whose branches the plan may change first, and example inputs.
            removed: [labels]: which components leave.
        """
        candidate = cut_on_meta(model, made) if self.runs_on_meta else cut(model, made)
        proof = (candidate, inputs, made, self.coupling, self.passes, removed)
        refusal = certify(*proof)
        if refusal is not None and not self.last_refusal:
            refusal = certify(*proof)  # what the code computes once and remembers is remembered now
        return refusal

    def freeze_refused(self, refusal: Refusal) -> None:
        """Freeze every channel at the refused operation; where none is left there, in the module around it, and so outwards.

        What is refused because of a number that the code computes freezes the widths that code made plain numbers of.

        Raises:
            CertificateError: if no channel is left to freeze anywhere.
        """
        dense = next(p for p in self.passes if p.graph.training == refusal.training)
        operations = dense.graph.operations
        refused = operations[refusal.operation]
        self.last_refusal = f"{refusal.reason} ({refused.name} in {refused.module or 'the model itself'})"
        reason = f"the cut could not be certified: {self.last_refusal}"
        if refusal.computed and (widths := self._alive(_made_plain(dense))):
            self.freeze([Freeze(labels, reason) for labels in widths])
            return
        for around, with_sizes in _outwards(operations, refusal.operation):
            touched = self._alive_at(dense, around, with_sizes)
            if touched:
                for other in refusal.others:
                    touched += self._alive_at(dense, operations[other : other + 1], False)
                self.freeze([Freeze(labels, reason) for labels in touched])
                return
        raise CertificateError(f"{reason}; no channel is left that could be frozen instead")

    def _alive_at(self, dense: Analysis, operations: Sequence[Operation], with_sizes: bool) -> list[Array]:
        """The channels that may leave, of the tensors that operations read and make, and of those whose sizes they are given."""
        values: dict[int, None] = {}
        for operation in operations:
            values |= dict.fromkeys([*operation.reads, *(v for v in operation.outputs if v is not None)])
            if with_sizes:
                expressions = [e for origins in operation.integers.values() for e in origins]
                values |= dict.fromkeys(value for e in expressions for value, _ in places_in(e))
        return self._alive([block for value in values for block in dense.layouts.get(value, ())])

    def _alive(self, blocks: Sequence[Block]) -> list[Array]:
        """The labels of the blocks with channels that may leave."""
        alive = np.zeros(len(self.coupling.roots), dtype=bool)
        for channels in self.coupling.channels:
            alive[channels] = True
        return [block.labels.reshape(-1) for block in blocks if alive[self.coupling.roots[block.labels]].any()]


def _both_passes(model: nn.Module, inputs: Any) -> list[Graph]:
    """The evaluation and the training pass.

    What a forward makes of nothing the first time, and then remembers outside its modules (a table of positions), is in the
    evaluation pass only, and never runs again: not in the small model either. Then that pass is made anew.
    """
    evaluation, training = trace(model, inputs), trace(model, inputs, training=True)
    made, made_again = (sum(not operation.reads for operation in graph.operations) for graph in (evaluation, training))
    if made > made_again:
        evaluation = trace(model, inputs)
    return [evaluation, training]


def _made_plain(dense: Analysis) -> list[Block]:
    """What the sizes count that became plain numbers or floats in a pass."""
    places = dict.fromkeys(place for expression in dense.graph.plain for place in places_in(expression))
    found = [block_at(dense.layouts.get(value, ()), dimension) for value, dimension in places]
    return [block for block in found if block is not None]


def _outwards(operations: Sequence[Operation], refused: int) -> Iterator[tuple[Sequence[Operation], bool]]:
    """Where to look for channels to freeze, ever wider; and whether to look at tensors whose sizes the code used there, too.

    A reshape that raises may have been about to copy first: its sizes are the next operator's.
    """
    yield operations[refused : refused + 1], False
    yield operations[refused : refused + 2], False
    yield operations[refused : refused + 2], True
    path = operations[refused].module
    while path:
        yield [o for o in operations if o.module == path or o.module.startswith(f"{path}.")], True
        path = path.rpartition(".")[0]
    yield operations, True
