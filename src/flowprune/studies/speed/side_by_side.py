"""Models timed in turns, in one process, under every condition that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowprune.engine.measuring import measure
from flowprune.engine.measuring.backends import Run, runner
from flowprune.engine.measuring.latency import Timing, time_runs
from flowprune.engine.measuring.live_memory import feature_bytes, weight_bytes
from flowprune.engine.measuring.number_of_threads import threads
from flowprune.errors import ModelError


@dataclass(frozen=True)
class Contestant:
    """What is timed: a model, or an ONNX file.

    Attributes:
        name: in the table.
        model: in evaluation mode; None for a file.
        shape: of an image, without the batch.
        onnx: opens the file with so many threads: float32 [N, ...] to its first output; None for a model.
    """

    name: str
    model: nn.Module | None
    shape: tuple[int, ...]
    onnx: Callable[[int], Callable[[Tensor], Tensor]] | None = None


@dataclass(frozen=True)
class Conditions:
    """Under what all of them run."""

    backend: str
    batch: int
    threads: int


@dataclass(frozen=True)
class SpeedRow:
    """One contestant under one set of conditions.

    Attributes:
        name, backend, batch, threads: whose, and under what.
        milliseconds: the middle one of all turns.
        quartiles: between these milliseconds lies the middle half.
        speed_up: how many times as fast as the first contestant: the middle one of all turns' ratios.
        macs, params: an image's multiply-accumulates, parameters; None of an ONNX file.
        macs_ratio: how many times fewer MACs than the first has.
        weight_mb, feature_mb: megabytes of the weights, and of the features that live at once in a PyTorch forward of this batch,
            counted; None of an ONNX file.
    """

    name: str
    backend: str
    batch: int
    threads: int
    milliseconds: float
    quartiles: tuple[float, float]
    speed_up: float
    macs: int | None
    params: int | None
    macs_ratio: float | None
    weight_mb: float | None
    feature_mb: float | None


def side_by_side(
    contestants: Sequence[Contestant], conditions: Sequence[Conditions], turns: int = 7
) -> Iterator[SpeedRow]:
    """Time all of them in turns under each of the conditions, and give a row for each as it is there.

    A contestant that a backend cannot run (an ONNX file by PyTorch) is left out there; the first one is what others are compared
    with, where it runs.

    Args:
        contestants: models and files; all on the processor.
        conditions: see there.
        turns: samples of each.

    Raises:
        ModelError: a backend runs none of them, or fails.
    """
    costs = {one.name: _cost(one) for one in contestants}
    for at in conditions:
        able = [one for one in contestants if one.model is not None or at.backend == "onnxruntime"]
        if not able:
            raise ModelError(f"ONNX files run by onnxruntime only, not by {at.backend}; use --backend onnxruntime")
        with threads(at.threads):
            runs = [_run(one, at) for one in able]
            with torch.inference_mode():
                timings = time_runs(runs, turns, torch.device("cpu"))
        for one, timing in zip(able, timings, strict=True):
            yield _row(one, at, timing, timings[0], costs[one.name], costs[able[0].name])


def _run(one: Contestant, at: Conditions) -> Run:
    x = torch.zeros(at.batch, *one.shape)
    if one.model is not None:
        return runner(at.backend, one.model, x)
    assert one.onnx is not None
    opened = one.onnx(at.threads)
    return lambda: opened(x)


def _row(
    one: Contestant,
    at: Conditions,
    timing: Timing,
    first: Timing,
    cost: tuple[int, int] | None,
    first_cost: tuple[int, int] | None,
) -> SpeedRow:
    low, high = timing.quartiles
    model = one.model
    return SpeedRow(
        one.name,
        at.backend,
        at.batch,
        at.threads,
        timing.median * 1e3,
        (low * 1e3, high * 1e3),
        1 / timing.share_of(first),
        None if cost is None else cost[0],
        None if cost is None else cost[1],
        None if cost is None or first_cost is None else first_cost[0] / max(cost[0], 1),
        None if model is None else weight_bytes(model) / 1e6,
        None if model is None else feature_bytes(model, torch.zeros(at.batch, *one.shape)) / 1e6,
    )


def _cost(one: Contestant) -> tuple[int, int] | None:
    """MACs of an image and parameters."""
    if one.model is None:
        return None
    found = measure(one.model, torch.zeros(1, *one.shape))
    return found.macs, found.params
