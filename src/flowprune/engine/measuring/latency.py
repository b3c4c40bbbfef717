"""How long a forward takes, here and now: models timed in turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from flowprune.engine.measuring.backends import Run, runner
from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.engine.tracing import first_tensor

SHORTEST_SAMPLE = 0.002
"""Seconds a sample lasts at least: shorter forwards are repeated within it."""
WARM_UP = 3


@dataclass(frozen=True)
class Timing:
    """Seconds a forward takes, in evaluation mode, without gradients.

    Attributes:
        samples: one for every turn.
    """

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle sample."""
        return float(np.median(self.samples))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these lies the middle half of the samples."""
        low, high = np.quantile(self.samples, [0.25, 0.75])
        return float(low), float(high)

    def share_of(self, other: Timing) -> float:
        """The time as a share of another model's: the middle one of all turns' shares."""
        return float(np.median(np.divide(self.samples, other.samples)))


def time_in_turns(models: Sequence[nn.Module], inputs: Any, turns: int = 15, backend: str = "pytorch") -> list[Timing]:
    """Time the forwards of several models on the same inputs, one after the other in every turn.

    Args:
        models: in any mode; the mode of every module is restored, the global random state as well.
        inputs: what the forwards take, on the device they run on.
        turns: samples a model. Every model is run a few times before.
        backend: what runs them, see ``backends.runner``.

    Raises:
        FlowpruneError: the backend is unknown, not installed, or cannot run a model.
    """
    device = first_tensor(inputs).device
    with evaluating(*models), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Outside of inference mode, whose tensors cannot be exported.
        runs = [runner(backend, model, inputs) for model in models]
        with torch.inference_mode():
            return time_runs(runs, turns, device)


def time_runs(runs: Sequence[Run], turns: int, device: torch.device) -> list[Timing]:
    """Time several forwards, one after the other in every turn; each is run a few times before.

    Args:
        runs: each is one forward.
        turns: samples of each.
        device: they run on.
    """
    repeats = []
    for run in runs:
        for _ in range(WARM_UP):
            _sample(run, device, 1)
        repeats.append(max(1, round(SHORTEST_SAMPLE / max(_sample(run, device, 1), 1e-7))))
    samples = [[_sample(run, device, times) for run, times in zip(runs, repeats, strict=True)] for _ in range(turns)]
    return [Timing(tuple(own)) for own in zip(*samples, strict=True)]


def _sample(run: Run, device: torch.device, times: int) -> float:
    _wait_for(device)
    began = time.perf_counter()
    for _ in range(times):
        run()
    _wait_for(device)
    return (time.perf_counter() - began) / times


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
