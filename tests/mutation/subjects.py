"""The networks whose cuts are mutated: the torture networks and one more, users' shapes, and ten architectures of the zoo."""

from __future__ import annotations

from collections.abc import Callable

import torch
from silenced_twin import randomized, silenced_twin
from torch import Tensor, nn
from torture_networks import IMAGE, TORTURE, Headed, unit
from users_shapes import USERS_SHAPES, images_for

import flowprune.models as models
from flowprune.engine.allocation import Plan
from flowprune.engine.tracing.operator_log import tensors_in
from flowprune.methods.importance import L2
from flowprune.pruning import plan, prune

ZOO: dict[str, int] = {
    "torchvision:resnet18": 64,
    "torchvision:mobilenet_v2": 64,
    "torchvision:densenet121": 64,
    "timm:deit_tiny_patch16_224": 224,
    "timm:swin_tiny_patch4_window7_224": 224,
    "torchvision:shufflenet_v2_x1_0": 64,
    "torchvision:convnext_tiny": 64,
    "torchvision:regnet_y_400mf": 64,
    "torchvision:efficientnet_b0": 64,
    "torchvision:googlenet": 64,
}
"""Name in benchmarks/zoo/zoo.txt -> image size; small ones, because every mutant is run."""


class OverChannels(Headed):
    """A mean and a softmax over channels: what makes those channels must stay."""

    def __init__(self) -> None:
        super().__init__(32)
        self.first, self.second, self.third, self.last = unit(3, 32), unit(32, 32), unit(32, 32), unit(32, 32)

    def body(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        x = self.third(x * torch.sigmoid(x.mean(1, keepdim=True)))
        return self.last(x.softmax(1))


SMALL: dict[str, Callable[[], nn.Module]] = {**TORTURE, "mean and softmax over channels": OverChannels}
NAMES: tuple[str, ...] = (*SMALL, *USERS_SHAPES, *ZOO)


class Subject:
    """A network, its right cut, and what the right cut returns.

    Attributes:
        model: float64, evaluation mode, no parameter near zero, batch norms far from the identity.
        inputs: positional arguments of its forward, a batch of four.
        plan: half of the channels by L2.
        outputs: of the right small model, evaluation mode.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        torch.manual_seed(1)
        build, inputs = _network(name)
        self.model = awake(build().double(), inputs).eval()
        self.inputs = tuple(images[:4] for images in inputs)
        self.plan = self.planned()
        small = prune(self.model, self.plan).eval()
        self.outputs = outputs_of(small, self.inputs)
        self.training_outputs = outputs_of(small.train(), self.inputs)
        dense, silenced = outputs_of(self.model, self.inputs), self.silenced(self.plan)
        assert difference(self.outputs, silenced) < 1e-10 < 1e-6 < difference(dense, silenced)

    def planned(self) -> Plan:
        """Plan the cut, by whatever the engine now is."""
        return plan(self.model, self.inputs, importance=L2(), channels=0.5)

    def returned(self, network: nn.Module) -> list[Tensor]:
        """What a network returns for the inputs."""
        return outputs_of(network, self.inputs)

    def silenced(self, made: Plan) -> list[Tensor]:
        """What the dense model returns when everything ``made`` removes is zeroed where it is read."""
        return outputs_of(silenced_twin(self.model, made), self.inputs)


def _network(name: str) -> tuple[Callable[[], nn.Module], tuple[Tensor, ...]]:
    """How the network is built, and a batch of eight for it."""
    if name in USERS_SHAPES:
        return USERS_SHAPES[name], images_for(name, 8)
    if name in SMALL:
        return SMALL[name], (torch.randn(8, *IMAGE, dtype=torch.float64),)
    return lambda: models.create(name, classes=7), (torch.randn(8, 3, ZOO[name], ZOO[name], dtype=torch.float64),)


def awake(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """No channel is silent and none is constant, so that no fault can hide in one.

    Layer scales, position tables and heads are moved away from zero. Batch norms get scales and shifts far from the identity and
    statistics close to those of the activations, so that each of their channels is above zero in most places, though not in all.
    """
    randomized(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if float(parameter.abs().max()) < 1e-2:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean of what is seen
        model.train()(*inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            assert norm.running_mean is not None and norm.running_var is not None
            norm.bias.abs_().add_(0.1)
            norm.running_mean.add_(torch.randn_like(norm.running_mean) * norm.running_var.sqrt() * 0.2)
            norm.running_var.mul_(torch.rand_like(norm.running_var) + 0.5)
    return model


def outputs_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Every tensor the model returns; the random state and the model's buffers are the same before each call."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = list(tensors_in(model(*inputs)))
        for buffer, value in buffers:
            buffer.copy_(value)
    return found


def difference(left: list[Tensor], right: list[Tensor]) -> float:
    """Largest difference, relative to the right side where that is above one; infinite where numbers or shapes differ."""
    if [tensor.shape for tensor in left] != [tensor.shape for tensor in right]:
        return float("inf")
    found = 0.0
    for one, other in zip(left, right, strict=True):
        gap = float((one - other).abs().max()) / max(1.0, float(other.abs().max()))
        found = float("inf") if gap != gap else max(found, gap)
    return found
