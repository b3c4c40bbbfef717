"""What a coupled group is: channels that exist in several tensors at once and can only leave all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Member:
    """A dimension of a parameter or buffer that a group's channels occupy.

    Attributes:
        name: dotted name of the parameter or buffer ("layer1.0.conv1.weight").
        dimension: which of its dimensions.
        role: "output" where the channel is made (first dimension of a convolution's or linear layer's weight and its bias),
            "normalization" (a normalisation's weight, bias, running statistics), "input" where it is consumed, or "other".
        indices: [channels, k]: where channel c sits in this dimension; k > 1 where one channel takes several places,
            as after a flatten in front of a linear layer.
    """

    name: str
    dimension: int
    role: str
    indices: Indices


@dataclass(frozen=True)
class FeatureMap:
    """A tensor of the evaluation-mode pass that carries a group's channels.

    Attributes:
        position: (operation index, output index), for ``tracing.observe``.
        dimension: the channel dimension of the tensor (1 for NCHW).
        indices: [channels, k]: where channel c sits in that dimension.
        stage: "convolution" (as the convolution or linear layer returns it), "normalized", "activated", or "added" (after the
            residual addition and its activation).
        unit: dotted path of the convolution or linear layer that makes it.
    """

    position: tuple[int, int]
    dimension: int
    indices: Indices
    stage: str
    unit: str


@dataclass(frozen=True)
class CoupledGroup:
    """Channels of one kind: each takes the same places in the same tensors, so they can be compared with one another.

    Attributes:
        name: the first layer that makes the channels; with a suffix "#2", "#3" where one layer's channels fall into several groups.
        channels: how many there are.
        members: every parameter and buffer dimension they occupy.
        maps: the feature maps that carry them; of a traced model, looked for when they are first asked for.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    maps: Sequence[FeatureMap]

    @property
    def makers(self) -> list[Member]:
        """The weights whose filters make the channels."""
        return [member for member in self.members if member.role == "output" and not member.name.endswith("bias")]
