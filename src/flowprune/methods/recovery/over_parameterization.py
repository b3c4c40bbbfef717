"""Fine-tuning with every layer as three, which are one again when it is over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from flowprune.engine.interfaces import CutSlices, Recovery
from flowprune.errors import FlowpruneError
from flowprune.methods.recovery.distillation import Distillation
from flowprune.methods.recovery.registry import REGISTRY
from flowprune.methods.replacements import LinearExpansion, replace_modules, restore_modules
from flowprune.methods.replacements.linear_expansion import Start


@REGISTRY.register("over_parameterization")
class OverParameterization(Recovery):
    """The small network is fine-tuned with its layers expanded, and contracted again.

    Boosting Pruned Networks with Linear Over-parameterization, arXiv 2204.11444, after the published abstract (there is no
    code): layers become three linear ones (``LinearExpansion``), and ``similarity`` times the mean of
    ``similarity_preserving_loss`` between the expanded layers and the dense ones is added to the task loss. Its weight there is not
    known; Tung & Mori's is 3000.

    Train what ``prepare`` returns, with this as its regularizer; ``restored()`` is the small network with ordinary layers. Each
    epoch costs the MACs of the wide one.

    Args:
        expansion, start, seed: see ``LinearExpansion.replace``.
        similarity: weight of the distillation, at least 0.
        layers: dotted paths of the layers that are expanded and compared; every linear layer and convolution that can be
            expanded if None.

    Example:
        >>> method = OverParameterization(expansion=2, similarity=3000)
        >>> wide = method.prepare(small, dense, plan, ())
        >>> # train(wide, ..., regularizer=method)
        >>> small = method.restored()
    """

    trains: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False

    def __init__(
        self,
        *,
        expansion: float = 4.0,
        start: Start = "semi_orthogonal",
        seed: int = 0,
        similarity: float = 0.0,
        layers: Sequence[str] | None = None,
    ) -> None:
        if not similarity >= 0:
            raise FlowpruneError(f"similarity={similarity}: the weight of a loss is a number from 0 on")
        self.expansion, self.start, self.seed = expansion, start, seed
        self.similarity, self.layers = float(similarity), layers
        self._distillation: Distillation | None = None

    def prepare(self, small: nn.Module, dense: nn.Module, plan: CutSlices, batches: Iterable[Any]) -> nn.Module:
        """A copy of ``small`` with expanded layers; ``small`` stays as it is, and no batch is looked at.

        Raises:
            FlowpruneError, ModelError: as ``replace_modules``.
        """
        self.close()
        method = LinearExpansion()
        names = self.layers
        if names is None:
            names = [name for name, module in small.named_modules() if method.matches(module)]
        wide = replace_modules(small, method, names, expansion=self.expansion, start=self.start, seed=self.seed)
        if self.similarity:
            self._distillation = Distillation(logits=0, features=self.similarity, layers=names, likeness="similarity")
            self._distillation.prepare(wide, dense, plan, ())
        return super().prepare(wide, dense, plan, ())

    def restored(self) -> nn.Module:
        """The small network, each layer's three made one; it carries no hook of this."""
        wide = super().restored()
        self.close()
        return restore_modules(wide, LinearExpansion())

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """The distillation's, a 0-dim tensor; 0 without one."""
        if self._distillation is None:
            return super().penalty(task_loss, batch=batch, outputs=outputs)
        return self._distillation.penalty(task_loss, batch=batch, outputs=outputs)

    def forget(self) -> None:
        """What another method's forward left is not this step's."""
        if self._distillation is not None:
            self._distillation.forget()

    def close(self) -> None:
        """Take the hooks off, and let the teacher go."""
        if self._distillation is not None:
            self._distillation.close()
        self._distillation = None
