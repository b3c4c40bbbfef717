"""Where modules lay in version 0.1, and what parameters were called: the old names lead to those of today.

What people wrote by the pages of that version goes on working, and so do pickles that name a class by its module.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_FLOW = "flowprune.methods.regularizers.feature_flow"

TODAY = {
    "flowprune.allocation": ["flowprune.engine.allocation"],
    "flowprune.branches": ["flowprune.engine.branches"],
    "flowprune.coupling": ["flowprune.engine.coupling"],
    "flowprune.measuring": ["flowprune.engine.measuring"],
    "flowprune.measuring.filter_layers": ["flowprune.engine.tracing.filter_layers"],
    "flowprune.planning": ["flowprune.engine.planning"],
    "flowprune.surgery": ["flowprune.engine.surgery"],
    "flowprune.tracing": ["flowprune.engine.tracing"],
    "flowprune.lineage": ["flowprune.engine.steps.lineage"],
    "flowprune.importance": ["flowprune.methods.importance"],
    "flowprune.importance.l1": ["flowprune.methods.importance.weight_norms"],
    "flowprune.importance.l2": ["flowprune.methods.importance.weight_norms"],
    "flowprune.importance.protocol": ["flowprune.engine.interfaces"],
    "flowprune.regularizers": ["flowprune.methods.regularizers"],
    "flowprune.regularizers.interface": ["flowprune.engine.interfaces"],
    "flowprune.flow": [_FLOW, "flowprune.studies.flow_paths"],
    "flowprune.iterating": ["flowprune.pruning"],
    "flowprune.comparison": ["flowprune.studies.comparison"],
    "flowprune.pipeline": ["flowprune.studies.pipeline"],
    "flowprune.pipeline.criteria": ["flowprune.studies.phases.criteria"],
    "flowprune.recipe": ["flowprune.studies.recipe"],
    "flowprune.sensitivity_scan": ["flowprune.studies.sensitivity"],
    "flowprune.toy": ["flowprune.studies.toy"],
}
"""Old name of a module or package -> where its names are. What lies below a package is looked for below the first of these."""


class _OldNames(MetaPathFinder, Loader):
    """Answers Python's import system for the old names; as a loader, it has the module already."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Python's question: who loads this module?"""
        return ModuleSpec(name, self) if self._today(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of today; where an old one is two of today's, one that has the names of both."""
        homes = [importlib.import_module(home) for home in self._today(spec.name)]
        if len(homes) == 1:
            spec.loader_state = homes[0].__spec__
            return homes[0]
        both = ModuleType(spec.name, homes[0].__doc__)
        for home in reversed(homes):
            vars(both).update({name: value for name, value in vars(home).items() if not name.startswith("__")})
        both.__path__ = homes[0].__path__
        return both

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do, but to give a module of today its own name back."""
        spec = module.__spec__
        if spec is not None and spec.loader_state is not None:
            module.__spec__ = spec.loader_state

    def _today(self, name: str) -> list[str]:
        head, tail = name, ""
        while head not in TODAY:
            head, dot, last = head.rpartition(".")
            if not dot:
                return []
            tail = f".{last}{tail}"
        return TODAY[head] if not tail else [TODAY[head][0] + tail]


def keep_working() -> None:
    """Let Python ask this table first: a package's folder, too, holds the modules below it, and would load them once more."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OldNames())


def formerly(old: str, new: str) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorator: the parameter ``new`` is taken by its old keyword, too, with a ``DeprecationWarning`` that names the new one."""

    def decorated(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def called(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
            if old in keywords and new not in keywords:
                said = f"{function.__name__}({old}=...) is {function.__name__}({new}=...) now"
                warnings.warn(said, DeprecationWarning, stacklevel=2)
                keywords[new] = keywords.pop(old)
            return function(*arguments, **keywords)

        return called

    return decorated
