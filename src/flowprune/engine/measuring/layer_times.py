"""How long each layer takes, in two or more models by turns: which layers a difference in time comes from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.engine.tracing import call_model


def layer_times(models: Sequence[nn.Module], inputs: Any, turns: int = 7) -> list[dict[str, float]]:
    """Of every model: dotted path of a module without children -> the middle one of its seconds a forward, over all turns.

    Only in PyTorch as it is, and on the processor: elsewhere layers run together, or later. The hooks that take the times cost a
    little themselves, alike in every model.

    Args:
        models: in any mode, which is restored.
        inputs: of their forwards.
        turns: forwards of each.
    """
    seconds: list[dict[str, list[float]]] = [{} for _ in models]
    hooks = []
    try:
        for model, own in zip(models, seconds, strict=True):
            for name, module in model.named_modules():
                if not any(True for _ in module.children()):
                    clock = _Clock(own.setdefault(name, []))
                    hooks += [
                        module.register_forward_pre_hook(clock.begin),
                        module.register_forward_hook(clock.end, always_call=False),
                    ]
        with evaluating(*models), torch.inference_mode(), torch.random.fork_rng(devices=[]):
            for model in models:
                call_model(model, inputs)
            for own in seconds:
                for samples in own.values():
                    samples.clear()
            for _ in range(turns):
                for model, own in zip(models, seconds, strict=True):
                    for samples in own.values():
                        samples.append(0.0)
                    call_model(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [{name: float(np.median(samples)) for name, samples in own.items() if any(samples)} for own in seconds]


class _Clock:
    """Adds the time of every call to the last of the samples; a module that is called twice counts twice."""

    def __init__(self, samples: list[float]) -> None:
        self._samples, self._began = samples, 0.0

    def begin(self, *called: object) -> None:
        self._began = time.perf_counter()

    def end(self, *called: object) -> None:
        if self._samples:
            self._samples[-1] += time.perf_counter() - self._began
