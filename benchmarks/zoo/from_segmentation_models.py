"""Networks of segmentation_models_pytorch by decoder and encoder: ``zoo.from_segmentation_models:Unet-resnet18``.

pip install segmentation-models-pytorch
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """A builder of the network with random weights and five classes."""
    if name.startswith("__"):
        raise AttributeError(name)
    return partial(_build, name)


def _build(name: str) -> nn.Module:
    import segmentation_models_pytorch as library

    decoder, _, encoder = name.partition("-")
    model: nn.Module = getattr(library, decoder)(encoder, encoder_weights=None, classes=5)
    return model
