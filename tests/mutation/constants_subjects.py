"""The networks on which faults in the constants are tried: dead filters in front of gates, lookups, norms and further inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from constant_filters import with_constant_filters
from random_architectures import varied
from random_conditions import Conditioned
from random_gates import ChannelsFirstRMSNorm, Gated, WrittenRMSNorm
from random_lookups import LookedUp
from torch import Tensor, nn

from flowprune.engine.allocation import Plan
from flowprune.pruning import plan, prune
from mutation.subjects import difference, outputs_of

WIDTH, SIZE = 16, 8


class Numbered(nn.Module):
    """And a number that Python has taken out of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.full_like(x, self.read(x).mean().item())


class Correlated(nn.Module):
    """How alike places are: channels are read by a product of activations, and by nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        places = x.flatten(2)
        return (places.transpose(1, 2) @ places)[:, :WIDTH].unflatten(2, x.shape[2:])


class Squeezed(nn.Module):
    """A gate for every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]


def _further(condition: str) -> Callable[[], nn.Module]:
    return lambda: Conditioned(nn.Identity(), WIDTH, SIZE, condition, residual=False)


BETWEEN: dict[str, Callable[[], nn.Module]] = {
    "constants: nothing between": nn.Identity,
    "constants: a largest neighbour": lambda: nn.MaxPool2d(3, 1, 1),
    "constants: a comparison": lambda: Gated(WIDTH, SIZE, "cast"),
    "constants: where": lambda: Gated(WIDTH, SIZE, "where"),
    "constants: a filled mask": lambda: Gated(WIDTH, SIZE, "filled"),
    "constants: the best places": lambda: Gated(WIDTH, SIZE, "topk"),
    "constants: nan_to_num": lambda: Gated(WIDTH, SIZE, "nan_to_num"),
    "constants: a gate for every channel": Squeezed,
    "constants: an embedding": _further("number: embedding"),
    "constants: a table": _further("number: table"),
    "constants: marks": _further("mark: where"),
    "constants: a mask of floats": _further("float: dropout"),
    "constants: places looked up": lambda: LookedUp(WIDTH, SIZE, "gathered places"),
    "constants: torch's RMS norm": lambda: ChannelsFirstRMSNorm(WIDTH, 1e-5),
    "constants: a written RMS norm": lambda: WrittenRMSNorm(WIDTH),
    "constants: a number taken out": Numbered,
    "constants: a product of activations": Correlated,
    "constants: a padded reader": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
    "constants: a grouped reader": lambda: nn.Conv2d(WIDTH, WIDTH, 1, groups=2),
}
"""Name -> what stands between the dead filters and their reader."""


class ConstantsSubject:
    """A network with dead filters, its right cut by a threshold, and what that returns.

    Attributes:
        model: float64, evaluation mode.
        inputs: the example: a batch of four; further inputs are what people give, zeros and marks that are all set.
        others: three other calls.
        plan: what is dead leaves, and nothing changes.
        outputs: of the right small model, evaluation mode, on all of these.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        torch.manual_seed(1)
        between = BETWEEN[name]()
        network = _Network(between)
        self.model = with_constant_filters(varied(network), 0.3, together=0.0, without_weights=0.0).double().eval()
        calls = [self._call(between, plain=number == 0) for number in range(4)]
        self.inputs, self.others = calls[0], calls[1:]
        self.plan = self.planned()
        small = prune(self.model, self.plan).eval()
        self.outputs = self.returned(small)
        self.training_outputs = self.returned(small.train())
        assert difference(self.outputs, self.silenced(self.plan)) < 1e-10

    def planned(self) -> Plan:
        """Plan the cut, by whatever the engine now is."""
        return plan(self.model, self.inputs, threshold=0.01, fold_tolerance=0)

    def returned(self, network: nn.Module) -> list[Tensor]:
        """What a network returns, for the example and for others."""
        return [output for call in (self.inputs, *self.others) for output in outputs_of(network, call)]

    def silenced(self, made: Plan) -> list[Tensor]:
        """What the small model must return: what the dense one does."""
        return self.returned(self.model)

    def _call(self, between: nn.Module, plain: bool) -> tuple[Tensor, ...]:
        images = torch.randn(4, 3, SIZE, SIZE, dtype=torch.float64)
        return (images, between.further_input(4, plain)) if isinstance(between, Conditioned) else (images,)


class _Network(nn.Module):
    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH)
        self.between, self.second, self.behind = between, nn.Conv2d(WIDTH, WIDTH, 1), nn.BatchNorm2d(WIDTH)
        self.last = nn.Conv2d(WIDTH, 4, 1)

    def forward(self, x: Tensor, *further: Tensor) -> Tensor:
        y = self.between(nn.functional.leaky_relu(self.norm(self.first(x)), 0.2), *further)
        return self.last(torch.relu(self.behind(self.second(y))))
