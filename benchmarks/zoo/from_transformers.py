"""Hugging Face's vision networks by the names of their architectures: ``zoo.from_transformers:beit``.

    pip install transformers

Each in the default size of its configuration, with a classifier, or after ``segment-`` with a head for segmentation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """A builder of the network with random weights."""
    if name.startswith("__"):
        raise AttributeError(name)
    return partial(_build, name)


def _build(name: str) -> nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    segments = name.startswith("segment-")
    configuration = transformers.AutoConfig.for_model(name.removeprefix("segment-"))
    configuration.architectures = []  # of several networks to a configuration the first; None is not understood
    task = transformers.AutoModelForSemanticSegmentation if segments else transformers.AutoModelForImageClassification
    model: nn.Module = task.from_config(configuration)
    return model
