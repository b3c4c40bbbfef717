"""The CIFAR networks of the literature, and names for any other model: ``create("torchvision:resnet50")``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

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
_FILES = {
    "BasicBlock": "resnet",
    "CifarResNet": "resnet",
    "PaddedShortcut": "resnet",
    "PlainNet": "vgg",
    "create": "catalogue",
    "load_weights": "weights",
    "names": "catalogue",
    "runs_own_code": "catalogue",
    "takes_classes": "catalogue",
}


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
