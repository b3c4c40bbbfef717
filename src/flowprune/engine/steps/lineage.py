"""Where a model comes from: the builder that made it and the plans that cut it since.

A pruned model stays a plain ``nn.Module``. The only thing it carries is this immutable record, as an ordinary Python attribute
of the root module, so that ``save`` can write down how to rebuild the architecture without pickling a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

_ATTRIBUTE = "_flowprune_lineage"


@dataclass(frozen=True)
class Lineage:
    """How to rebuild a model's architecture.

    Attributes:
        builder: the name ``flowprune.models.create`` knows, or None for a model of the user's own.
        options: keyword arguments of the builder (``classes``, ``in_channels``, ...), JSON-able.
        plans: the JSON form of every plan carried out since, oldest first.
    """

    builder: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    plans: tuple[Mapping[str, Any], ...] = ()

    def with_plan(self, plan: Mapping[str, Any]) -> Lineage:
        """The lineage of what ``plan`` makes of this model."""
        return replace(self, plans=(*self.plans, plan))


def lineage_of(model: nn.Module) -> Lineage:
    """The model's record; an empty one for a model this package has not built or cut."""
    found = getattr(model, _ATTRIBUTE, None)
    return found if isinstance(found, Lineage) else Lineage()


def attach_lineage(model: nn.Module, lineage: Lineage) -> None:
    """Write the record down on ``model`` (the root module)."""
    object.__setattr__(model, _ATTRIBUTE, lineage)
