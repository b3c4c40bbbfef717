"""The CIFAR networks of the literature, and names for any other model: ``create("torchvision:resnet50")``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowprune.registry import on_first_use

if TYPE_CHECKING:
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

# Imported on first use: the names alone (``own_names``) must not wait for torch.
_HOMES = {
    "BasicBlock": "flowprune.models.resnet",
    "CifarResNet": "flowprune.models.resnet",
    "PaddedShortcut": "flowprune.models.resnet",
    "PlainNet": "flowprune.models.vgg",
    "create": "flowprune.models.catalogue",
    "load_weights": "flowprune.models.weights",
    "names": "flowprune.models.catalogue",
    "runs_own_code": "flowprune.models.catalogue",
    "takes_classes": "flowprune.models.catalogue",
}


__getattr__, __dir__ = on_first_use(__name__, _HOMES)
