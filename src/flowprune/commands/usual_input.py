"""The shape of the images that a network known by name is usually given, so that nobody has to type it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from flowprune.engine.steps.lineage import lineage_of

_SIZE_OPTIONS = {"torchvision": "image_size", "timm": "img_size"}
_CHANNEL_OPTIONS = {"": "in_channels", "timm": "in_chans"}
_CIFAR = (3, 32, 32)


def usual_input(model: nn.Module) -> tuple[int, ...] | None:
    """Channels, height and width for a network of this package, of timm, or a classifier of torchvision; None for others.

    What the model was built with counts (``in_channels``, ``in_chans``, ``image_size``, ``img_size``); the rest is what its
    library says of its weights.
    """
    lineage = lineage_of(model)
    if lineage.builder is None:
        return None
    source, colon, name = lineage.builder.partition(":")
    if not colon:
        return _with_options(_CIFAR, "", lineage.options)
    if source == "torchvision":
        found = _torchvision(name)
    elif source == "timm":
        found = _timm(name)
    else:
        return None
    return None if found is None else _with_options(found, source, lineage.options)


def _with_options(shape: tuple[int, ...], source: str, options: Mapping[str, Any]) -> tuple[int, ...]:
    channels, height, width = shape
    channels = options.get(_CHANNEL_OPTIONS.get(source, ""), channels)
    size = options.get(_SIZE_OPTIONS.get(source, ""), (height, width))
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return channels, height, width


def _torchvision(name: str) -> tuple[int, ...] | None:
    """The smallest crop of its weights: some have a second set for larger images than the builder's own default."""
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    crops = [weights.transforms().crop_size[0] for weights in models.get_model_weights(name)]
    return (3, min(crops), min(crops)) if crops else None


def _timm(name: str) -> tuple[int, ...] | None:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    size = None if config is None else config.input_size
    return tuple(size) if size is not None and len(size) == 3 else None
