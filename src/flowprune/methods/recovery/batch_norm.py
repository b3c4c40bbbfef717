"""Running statistics of batch norms, estimated anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flowprune.engine.interfaces import CutSlices, Recovery
from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.engine.tracing.shadow import call_model
from flowprune.errors import DataError, ModelError
from flowprune.methods.recovery._calibration.in_step import calibration_inputs
from flowprune.methods.recovery.registry import REGISTRY


@REGISTRY.register("batch_norm")
class BatchNorm(Recovery):
    """Batch norms get the mean and the variance that the small network's activations really have.

    A cut moves what its survivors' consumers say, so the running statistics are those of another network. Each batch runs once,
    normalised by its own statistics as in training (dropout and all else stay in evaluation mode), and these are pooled:
    Wu & Johnson, Rethinking "Batch" in BatchNorm, arXiv 2105.07576, section 3.1 (PreciseBN), but weighted by the batches' sizes::

        mean = sum n_b mean_b / N,     var = (sum n_b (var_b + mean_b^2) / N - mean^2) N / (N - 1)

    The images have to be changed by chance as those of the training were. The pretrained ResNet-20 (padded crops) loses 3 points
    to statistics of plain images, without any cut, and none to those of crops (docs/one-shot.md).

    n_b counts the numbers of a channel in batch b, N those in all; var_b divides by n_b, and var by N - 1, as torch's running
    variance does. Weights, gamma, beta, momentum and ``num_batches_tracked`` stay. Batch norms without running statistics, or
    which do not run, are left alone.

    Attributes:
        estimated: dotted paths of the batch norms that have new statistics.

    Example:
        >>> small = BatchNorm().prepare(small, dense, plan, batches)
    """

    def __init__(self) -> None:
        self.estimated: tuple[str, ...] = ()

    def prepare(self, small: nn.Module, dense: nn.Module, plan: CutSlices, batches: Iterable[Any]) -> nn.Module:
        """Put new statistics into ``small`` and return it; ``dense`` and ``plan`` are not looked at.

        Raises:
            DataError: no batch, one without a tensor, or with a single number a channel.
            ModelError: the activations are NaN or infinite.
        """
        self._estimate(small, calibration_inputs(small, batches))
        return super().prepare(small, dense, plan, ())

    def _estimate(self, small: nn.Module, inputs: Iterable[Any]) -> None:
        norms = {
            name: module
            for name, module in small.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }
        sums = {name: _Sums() for name in norms}
        kept = {name: module.momentum for name, module in norms.items()}
        state = {name: [buffer.clone() for buffer in module.buffers()] for name, module in norms.items()}
        hooks = [module.register_forward_pre_hook(_seeing(name, sums[name])) for name, module in norms.items()]
        try:
            with evaluating(small), torch.no_grad():
                for module in norms.values():
                    module.train()
                    module.momentum = 0.0  # the statistics of one batch alone must not go in
                for one in inputs:
                    call_model(small, one)
        finally:
            for hook in hooks:
                hook.remove()
            for name, module in norms.items():
                module.momentum = kept[name]
                for buffer, before in zip(module.buffers(), state[name], strict=True):
                    buffer.copy_(before)
        self.estimated = tuple(name for name in norms if sums[name].count)
        for name in self.estimated:
            norm, (mean, variance) = norms[name], sums[name].pooled()
            if not bool(torch.isfinite(mean).all() & torch.isfinite(variance).all()):
                raise ModelError(f"{name}: what it reads of the calibration images is NaN or infinite")
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)


class _Sums:
    """Over all batches, in float64, a channel each; deviations are from the first batch's mean, where little cancels."""

    def __init__(self) -> None:
        self.count = 0
        self._about = self._first = self._second = torch.zeros(())

    def add(self, seen: Tensor) -> None:
        """A batch ``[images, channels, ...]``."""
        columns = seen.detach().transpose(0, 1).flatten(1).double()
        if not self.count:
            self._about = columns.mean(1, keepdim=True)
            self._first = self._second = torch.zeros_like(self._about[:, 0])
        apart = columns - self._about
        self.count += columns.shape[1]
        self._first = self._first + apart.sum(1)
        self._second = self._second + apart.square().sum(1)

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance."""
        mean = self._first / self.count
        variance = (self._second / self.count - mean.square()).clamp(min=0) * (self.count / max(self.count - 1, 1))
        return self._about[:, 0] + mean, variance


def _seeing(name: str, sums: _Sums) -> Any:
    def see(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen = arguments[0]
        if seen.numel() <= seen.shape[1]:
            raise DataError(
                f"{name} sees one number a channel in a batch, which has no variance; use larger calibration batches"
            )
        sums.add(seen)

    return see
