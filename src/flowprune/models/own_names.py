"""The names of this package's networks, known before anything is built: a slip in one is refused without waiting for torch."""

from __future__ import annotations

from flowprune.errors import UnknownNameError

RESNET_BLOCKS = (1, 2, 3, 5, 7, 9, 18)
"""Blocks of each of the three stages of a CIFAR ResNet; it is named by its layers, 6 n + 2."""

OWN_NAMES = (*(f"resnet{6 * blocks + 2}" for blocks in RESNET_BLOCKS), "vgg6", "vgg16", "vgg19")


class UnknownModelError(UnknownNameError):
    """A name of a model that is none of ``OWN_NAMES``; the message also says how other libraries' networks are named."""

    def __init__(self, name: str) -> None:
        super().__init__("model", name, OWN_NAMES)
        self.args = (f"{self} (other networks: torchvision:NAME, timm:NAME or package.module:function)",)
