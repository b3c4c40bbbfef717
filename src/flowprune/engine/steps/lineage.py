"""Where a model comes from: the builder that made it and the steps that changed it since.

A changed model stays a plain ``nn.Module``. The only thing it carries is this immutable record, as an ordinary Python attribute
of the root module, so that ``save`` can write down how to rebuild the architecture without pickling a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

_ATTRIBUTE = "_flowprune_lineage"

Kind = Literal["cut", "mask", "replace", "quantize"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Step:
    """One thing that was done to a model.

    Attributes:
        kind: "cut", "mask", "replace" or "quantize".
        data: JSON-able. Of a cut, the plan as ``Plan.as_dict`` writes it. Of a mask, its name and options, and how many weights it
            kept of how many. Of a replacement, its name, the modules and options, and whether it was taken back. Of a quantizer,
            its name and options, the codec's, and the parameters.
    """

    kind: Kind
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Lineage:
    """How to rebuild a model's architecture, and what of it is held.

    Attributes:
        builder: the name ``flowprune.models.create`` knows, or None for a model of the user's own.
        options: keyword arguments of the builder (``classes``, ``in_channels``, ...), JSON-able.
        steps: what was done since, oldest first.
        masks: name of a parameter -> bool of its shape, on the CPU, False where it is zero for good: what all masks together leave
            of the model as it is now.
    """

    builder: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def plans(self) -> tuple[Mapping[str, Any], ...]:
        """The JSON form of every plan carried out since, oldest first."""
        return tuple(step.data for step in self.steps if step.kind == "cut")

    def with_plan(self, plan: Mapping[str, Any]) -> Lineage:
        """The lineage of what ``plan`` makes of this model: its masks lose what their parameters lose."""
        masks = {name: _cut(mask, name, plan) for name, mask in self.masks.items()}
        return replace(self, steps=(*self.steps, Step("cut", plan)), masks=masks)

    def with_step(self, step: Step, masks: Mapping[str, Tensor] | None = None) -> Lineage:
        """The lineage after one more step; ``masks`` are those of now, where it changes them."""
        return replace(self, steps=(*self.steps, step), masks=self.masks if masks is None else masks)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """What a pickle holds; one of version 0.1 holds the plans alone."""
        known = {key: value for key, value in state.items() if key != "plans"}
        if "plans" in state:
            known["steps"] = tuple(Step("cut", plan) for plan in state["plans"])
        vars(self).update({"masks": {}, **known})


def _cut(mask: Tensor, name: str, plan: Mapping[str, Any]) -> Tensor:
    """A mask without the indices that leave its parameter; where a fold puts a constant, nothing is held at zero any more."""
    shift = plan.get("shifts", {}).get(name)
    if shift is not None:
        mask = mask | (torch.as_tensor(shift, dtype=torch.float64) != 0)
    for dimension, gone in plan["removed"].get(name, {}).items():
        stays = torch.ones(mask.shape[int(dimension)], dtype=torch.bool)
        stays[list(gone)] = False
        mask = mask.index_select(int(dimension), stays.nonzero().flatten())
    return mask


def lineage_of(model: nn.Module) -> Lineage:
    """The model's record; an empty one for a model this package has neither built nor changed."""
    found = getattr(model, _ATTRIBUTE, None)
    return found if isinstance(found, Lineage) else Lineage()


def attach_lineage(model: nn.Module, lineage: Lineage) -> None:
    """Write the record down on ``model`` (the root module); masks of parameters that it has no more are left out."""
    if lineage.masks:
        parameters = dict(model.named_parameters())
        lineage = replace(lineage, masks={name: mask for name, mask in lineage.masks.items() if name in parameters})
    object.__setattr__(model, _ATTRIBUTE, lineage)
