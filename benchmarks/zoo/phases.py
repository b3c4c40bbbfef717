"""Seconds a phase of flowprune, taken from outside: functions of the package are wrapped, the package itself holds no clock."""

from __future__ import annotations

import functools
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flowprune.methods.importance
import flowprune.pruning  # noqa: F401 - what is imported later would keep the wrappers for good

PHASES = {
    "flowprune.engine.tracing.recorder:trace": "trace",
    "flowprune.engine.coupling.analysis:analyse": "coupling",
    "flowprune.engine.coupling.grouping:group_channels": "coupling",
    "flowprune.engine.measuring.filter_scales:filter_scales": "scoring",
    "flowprune.methods.importance._weights.weight_criterion:WeightCriterion.__call__": "scoring",
    "flowprune.engine.planning.selection:select": "allocation",
    "flowprune.engine.planning.assembly:assemble": "allocation",
    "flowprune.engine.allocation.costs:macs_model": "allocation",
    "flowprune.engine.allocation.costs:params_model": "allocation",
    "flowprune.engine.surgery.cut:cut_on_meta": "certificate",
    "flowprune.engine.surgery.cut:cut": "certificate",  # of a model that runs on real tensors only; in ``prune`` it is the cut
    "flowprune.engine.surgery.certificate:certify": "certificate",
    "flowprune.pruning:prune": "cut",
}
"""Function -> phase. Time in a function called inside another's counts for the inner one; the last two phases keep all theirs."""

NAMES = ("trace", "coupling", "scoring", "allocation", "certificate", "cut")
_WHOLE = ("certificate", "cut")


class Phases:
    """Wall seconds a phase: the processor's clock may be too coarse for the short ones.

    Attributes:
        seconds: by phase.
        results: the last result of every watched function.
        missing: functions of ``PHASES`` that the package does not have.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(NAMES, 0.0)
        self.results: dict[str, Any] = {}
        self.missing: list[str] = []
        self._stack: list[str] = []
        self._since = 0.0

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def watched(self, where: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, timed."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            inside_a_whole = bool(self._stack) and self._stack[-1] in _WHOLE
            self._turn()
            self._stack.append(self._stack[-1] if inside_a_whole else PHASES[where])
            try:
                self.results[where] = function(*args, **kwargs)
                return self.results[where]
            finally:
                self._turn()
                self._stack.pop()

        wrapper.flowprune_watched = True  # type: ignore[attr-defined]
        return wrapper


@contextmanager
def watching() -> Iterator[Phases]:
    """Wrap the functions of ``PHASES`` wherever the package has imported them; undone at the end."""
    phases = Phases()
    undo: list[tuple[Any, str, Any]] = []
    try:
        for where in PHASES:
            module_name, _, path = where.partition(":")
            *outer, name = path.split(".")
            try:
                owner: Any = importlib.import_module(module_name)
                for step in outer:
                    owner = getattr(owner, step)
                function = getattr(owner, name)
            except (ImportError, AttributeError):
                phases.missing.append(where)
                continue
            wrapper = phases.watched(where, function)
            loaded = [module for key, module in list(sys.modules.items()) if key.partition(".")[0] == "flowprune"]
            for place in [owner] if outer else loaded:
                for key in [key for key, value in vars(place).items() if value is function]:
                    undo.append((place, key, function))
                    setattr(place, key, wrapper)
        yield phases
    finally:
        for place, key, function in reversed(undo):
            setattr(place, key, function)
        # what was looked up or imported in the meantime, as the package's lazy names are
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "flowprune":
                for key, value in list(vars(module).items()):
                    if getattr(value, "flowprune_watched", False):
                        setattr(module, key, value.__wrapped__)
