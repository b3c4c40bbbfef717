"""Batch norms estimated anew once the training is over, on the last batches that it saw."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from flowprune.engine.interfaces import CutSlices, Recovery
from flowprune.methods.importance._scores.checked_numbers import checked_count
from flowprune.methods.recovery.batch_norm import BatchNorm
from flowprune.methods.recovery.registry import REGISTRY


@REGISTRY.register("batch_norm_after_training")
class BatchNormAfterTraining(BatchNorm):
    """After the last step, batch norms get the mean and variance that the trained network's activations really have.

    What running averages have followed are weights that moved. The code of Yu et al., Hessian-Aware Pruning and Optimal Neural
    Implant (HAP), WACV 2022, arXiv 2101.08940, ends its fine-tuning with a pass in which they go on and the weights stand still.
    Here the statistics are those of ``BatchNorm``, of the training's own images, changed by chance as it has changed them.

    Args:
        batches: how many of the training's last ones.

    Raises:
        FlowpruneError: ``batches`` is no such number.

    Example:
        >>> method = BatchNormAfterTraining()
        >>> result = fp.train(method.prepare(small, dense, plan, ()), data, settings, regularizer=method)
    """

    trains: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False

    def __init__(self, *, batches: int = 16) -> None:
        super().__init__()
        self._seen: deque[Tensor] = deque(maxlen=checked_count("batches", batches))

    def prepare(self, small: nn.Module, dense: nn.Module, plan: CutSlices, batches: Iterable[Any]) -> nn.Module:
        """Begin; ``dense``, ``plan`` and ``batches`` are not looked at."""
        return Recovery.prepare(self, small, dense, plan, ())

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """Nothing is added; the batch is kept."""
        if batch is not None:
            self._seen.append(batch[0])
        return super().penalty(task_loss)

    def finish(self) -> None:
        """Put the statistics into the network. Of a training that had ended before they are in its checkpoint."""
        if self._seen:
            self._estimate(self.restored(), self._seen)

    def close(self) -> None:
        """Let the batches go."""
        self._seen.clear()
