"""Why the channels of a model can only leave the way they do, in words."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from flowprune.engine.branches.ends import find_ends
from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.planning.coupled_model import CoupledModel
from flowprune.engine.planning.exemptions import Frozen, Ignored
from flowprune.engine.signatures import Heads, Inputs
from flowprune.engine.tracing import filter_layers
from flowprune.errors import counted


@dataclass(frozen=True)
class GroupExplanation:
    """One coupled group.

    Attributes:
        name: the first layer that makes its channels.
        channels: how many may be removed one by one.
        made_by: the layers whose filters they are; all lose the same ones.
        normalized_by: the normalisations that work on them.
        read_by: the layers that consume them.
        in_step_with: groups that must lose equally many (rows of a split, a grouped convolution or a shuffle).
    """

    name: str
    channels: int
    made_by: tuple[str, ...]
    normalized_by: tuple[str, ...]
    read_by: tuple[str, ...]
    in_step_with: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.name}: {counted(self.channels, 'channel')}, made by {_listed(self.made_by)}"]
        for what, layers in (
            ("read by", self.read_by),
            ("normalised by", self.normalized_by),
            ("in step with", self.in_step_with),
        ):
            if layers:
                lines.append(f"    {what} {_listed(layers)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Explanation:
    """The coupled groups of a model, and what may not be removed at all.

    Attributes:
        groups: in the order of their first layers.
        frozen: weight -> why (some of) its filters stay.
        branches: the last modules of residual branches whose dead ends ``branches=True`` removes while the stream lives.
    """

    groups: tuple[GroupExplanation, ...]
    frozen: dict[str, str]
    branches: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [str(group) for group in self.groups]
        if self.branches:
            lines.append(f"branches that can lose ends of their own: {_listed(self.branches, most=len(self.branches))}")
        lines += [f"frozen: {name}: {reason}" for name, reason in self.frozen.items()]
        return "\n".join(lines)


def explain(
    model: nn.Module, inputs: Inputs, *, ignore: Ignored = (), freeze: Frozen | None = None, heads: Heads = "whole"
) -> Explanation:
    """Which layers are coupled, and why the others are frozen; ``model`` is not touched.

    Args:
        model, inputs, ignore, freeze, heads: as for ``flowprune.plan``. What only the certificate of a cut would refuse is not
            known here.

    Raises:
        ModelError, TraceError: as ``flowprune.plan``.

    Example:
        >>> import torch, flowprune as fp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> print(fp.explain(model, torch.zeros(1, 4)))
        0: 8 channels, made by 0
            read by 2
        frozen: 2.weight: it is an output of the model
    """
    coupled = CoupledModel.of(model, inputs, ignore, freeze, heads)
    coupling = coupled.coupling
    names = [group.name for group in coupling.groups]
    partners = {
        member: [other for other in members if other != member] for members in coupling.classes for member in members
    }
    groups = tuple(
        GroupExplanation(
            group.name,
            group.channels,
            layers_of(group, "output", "other"),
            layers_of(group, "normalization"),
            layers_of(group, "input"),
            tuple(names[other] for other in partners[number]),
        )
        for number, group in enumerate(coupling.groups)
    )
    ends, _ = find_ends(model, coupled.graph, filter_layers(model, inputs, coupled.graph))
    stay = coupled.kept_as_asked()
    return Explanation(groups, dict(coupling.frozen), tuple(end.module for end in ends if not stay & end.tensors))


def layers_of(group: CoupledGroup, *roles: str) -> tuple[str, ...]:
    """The layers whose tensors have these roles in a group, in order."""
    owners = (member.name.rpartition(".")[0] or member.name for member in group.members if member.role in roles)
    return tuple(dict.fromkeys(owners))


def _listed(names: tuple[str, ...], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
