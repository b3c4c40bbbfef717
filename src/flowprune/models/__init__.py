"""The CIFAR networks of the literature, and names for any other model: ``create("torchvision:resnet50")``."""

from __future__ import annotations

from flowprune.models.catalogue import create, names, runs_own_code, takes_classes
from flowprune.models.resnet import BasicBlock, CifarResNet, PaddedShortcut
from flowprune.models.vgg import PlainNet
from flowprune.models.weights import load_weights

__all__ = [
    "BasicBlock",
    "CifarResNet",
    "PaddedShortcut",
    "PlainNet",
    "create",
    "load_weights",
    "names",
    "runs_own_code",
    "takes_classes",
]
