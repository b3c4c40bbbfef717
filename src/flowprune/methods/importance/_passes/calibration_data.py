"""Calibration data: the batches a criterion is given, as inputs of the model and, where it asks for them, labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from flowprune.engine.measuring.batches import input_of
from flowprune.errors import DataError, FlowpruneError

Loss = Callable[[Any, Any], torch.Tensor]
"""(output of the model, targets) -> the mean of the images' losses, a scalar."""


def cross_entropy(output: Any, targets: Any) -> torch.Tensor:
    """Mean cross-entropy of logits ``[images, classes]`` and class numbers ``[images]``.

    Raises:
        FlowpruneError: the output is no tensor; only the model's owner can say what its loss is.
    """
    if not isinstance(output, torch.Tensor):
        raise FlowpruneError(
            f"the model returns {type(output).__name__}, not logits; say what its loss is with loss=, a function of "
            "(output, targets)"
        )
    return nn.functional.cross_entropy(output, targets)


def inputs_in(batches: Iterable[Any], device: torch.device, criterion: str) -> Iterator[Any]:
    """The model's input in every batch, on ``device``.

    Args:
        batches: inputs, (input, target) pairs or dictionaries of keyword inputs.
        device: where the model is.
        criterion: who asks, for the error.

    Raises:
        DataError: there is no batch at all, or one that holds no tensor.
    """
    for batch in _some(batches, criterion):
        yield input_of(batch, device)


def labelled_in(batches: Iterable[Any], device: torch.device, criterion: str) -> Iterator[tuple[Any, Any]]:
    """Input and targets of every batch, on ``device``.

    Raises:
        DataError: there is no batch at all, or one that is no (input, targets) pair.
    """
    for batch in _some(batches, criterion):
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise DataError(
                f"{criterion} needs labels: every batch must be an (input, targets) pair, not {type(batch).__name__}"
            )
        yield input_of(batch, device), tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), batch[1])


def _some(batches: Iterable[Any], criterion: str) -> Iterator[Any]:
    source = iter(batches)
    try:
        first = next(source)
    except StopIteration:
        raise DataError(
            f"{criterion} was given no batch; an iterator can be read only once, so pass a list or a DataLoader"
        ) from None
    return itertools.chain([first], source)
