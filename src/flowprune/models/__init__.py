"""The CIFAR networks of the literature, and names for any other model: ``create("torchvision:resnet50")``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowprune.registry import on_first_use

if TYPE_CHECKING:
    from flowprune.models.catalogue import check_name, create, names, runs_own_code, takes_classes
    from flowprune.models.resnet import BasicBlock, CifarResNet, PaddedShortcut
    from flowprune.models.vgg import PlainNet
    from flowprune.models.weights import load_weights

__all__ = [
    "BasicBlock",
    "CifarResNet",
    "PaddedShortcut",
    "PlainNet",
    "check_name",
    "create",
    "load_weights",
    "names",
    "runs_own_code",
    "takes_classes",
]

# Imported on first use: the names alone (``own_names``) must not wait for torch.
_HOMES = {
    "flowprune.models.catalogue": "check_name create names runs_own_code takes_classes",
    "flowprune.models.resnet": "BasicBlock CifarResNet PaddedShortcut",
    "flowprune.models.vgg": "PlainNet",
    "flowprune.models.weights": "load_weights",
}


__getattr__, __dir__ = on_first_use(__name__, _HOMES)
