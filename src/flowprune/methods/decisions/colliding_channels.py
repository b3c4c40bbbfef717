"""The static form of HASTE: channels that a hash never tells apart become one for good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome
from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.engine.planning import CoupledModel
from flowprune.engine.tracing import call_model
from flowprune.errors import FlowpruneError
from flowprune.methods.decisions.registry import REGISTRY
from flowprune.methods.recovery._calibration.consumers import Consumer, consumers
from flowprune.methods.recovery._calibration.in_step import calibration_inputs
from flowprune.methods.recovery._calibration.reading_layers import Uncut, filters_of, places_read
from flowprune.methods.replacements.channel_hashes import codes, sparse_planes


@REGISTRY.register("colliding_channels")
class CollidingChannels:
    """Of channels that collide in every batch the first stays, and what reads them gets the sum of its weights for them.

    After HASTE, arXiv 2309.17211 ("-style": see ``HashedConvolution``), whose buckets are of one tile of one image: here they are
    of all calibration images, and the merge is a cut. A channel's vector are its values at all positions of a batch, as each layer
    that reads it sees them; a channel collides with another where their hashes agree in every batch and every layer::

        W'[:, first] = sum_{c in bucket} W[:, c],   all c but the first leave, from every tensor that they are coupled to

    Exact for channels that are equal (the trained biases and norms of what makes them are the first one's own). A hash of signs
    takes x, 2x and x + 1 for one another, and so by default sizes have to agree, too, within a factor of sqrt(2).

    Linear layers and convolutions without groups are summed. Channels that another layer reads too (grouped, transposed,
    running more than once) or that may not leave stay; depthwise layers and batch norms pass channels on. Behind a norm over
    channels, which counts them, the merge is not exact.

    Args:
        batches: calibration images; read once and kept.
        planes: of a hash, 1 to 40; the fewer, the more channels meet.
        scale: whether channels have to be of about one size to meet.
        seed: of the planes.

    Raises:
        FlowpruneError: ``planes`` is not such a number.

    Example:
        >>> outcome = CollidingChannels(batches)(model)
        >>> model.load_state_dict({**model.state_dict(), **outcome.weights})
        >>> small = fp.prune(model, fp.plan(model, inputs, outcome=outcome))
    """

    needs_data: ClassVar[bool] = True

    def __init__(self, batches: Iterable[Any], *, planes: int = 12, scale: bool = True, seed: int = 0) -> None:
        sparse_planes(planes, 1, seed)  # which says what is wrong
        self._batches, self._planes, self._scale, self._seed = list(batches), planes, bool(scale), seed

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Outcome:
        """What leaves, and the weights of what reads the rest; no scores, as none is worth less than another.

        Raises:
            DataError: no batch, or one without a tensor.
            FlowpruneError: no layer reads channels that may leave.
            TraceError, ModelError: as ``plan``.
        """
        inputs = calibration_inputs(model, self._batches)
        groups = CoupledModel.of(model, inputs[0]).coupling.groups
        with evaluating(model):
            layers = consumers(model, model, Uncut(), inputs[0], every_layer=True).layers
            reading = places_read(groups, layers)
            if not reading:
                raise FlowpruneError(
                    "no layer of the model reads channels that may leave and whose weights can be summed"
                )
            seen = self._seen(model, inputs, layers, reading)
        weights = {name: layers[name].small.weight.detach().clone() for name in reading}
        leaves: dict[str, list[Tensor]] = {}
        for number, found in seen.items():
            first, gone = _first_of_each(torch.stack(found, dim=1))
            for name, read in reading.items():
                if number in read:
                    _sum_up(weights[name], read[number], first, gone)
            for name, _, places in filters_of(groups[number], model):
                leaves.setdefault(name, []).append(places[gone].flatten())
        return Outcome(
            leaves={name: torch.cat(parts).sort().values for name, parts in leaves.items()},
            weights={layers[name].weight_name: weight for name, weight in weights.items()},
        )

    def _seen(
        self,
        model: nn.Module,
        inputs: list[Any],
        layers: Mapping[str, Consumer],
        reading: Mapping[str, Mapping[int, Tensor]],
    ) -> dict[int, list[Tensor]]:
        """Number of a group -> the hashes of its channels, int64 ``[channels]``, in every batch and layer."""
        planes = lru_cache(lambda size: sparse_planes(self._planes, size, self._seed))
        found: dict[int, list[Tensor]] = {}

        def looking(name: str) -> Callable[..., None]:
            def look(layer: Any, arguments: tuple[Any, ...]) -> None:
                dimension = arguments[0].dim() - layer.weight.dim() + 1  # of the channels
                channels = arguments[0].movedim(dimension, 0).flatten(1)
                for number, places in reading[name].items():
                    vectors = channels[places.to(channels.device)].flatten(1)
                    made = codes(vectors, planes(vectors.shape[1]).to(vectors.device), self._scale)
                    found.setdefault(number, []).append(made.cpu())

            return look

        with ExitStack() as stack:
            for name in reading:
                stack.callback(layers[name].small.register_forward_pre_hook(looking(name)).remove)
            for one in inputs:
                call_model(model, one)
        return found


def _first_of_each(hashes: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel the first with the same hashes ``[channels, n]``, int64 ``[channels]``; and which are not the first."""
    _, bucket = torch.unique(hashes, dim=0, return_inverse=True)
    numbers = torch.arange(len(hashes))
    firsts = torch.full_like(numbers, len(hashes)).scatter_reduce(0, bucket, numbers, "amin")
    first = firsts[bucket]
    return first, first != numbers


def _sum_up(weight: Tensor, places: Tensor, first: Tensor, gone: Tensor) -> None:
    """Add what leaves to what stays for it, in place: ``weight`` is ``[filters, inputs, ...]``, ``places`` ``[channels, k]``."""
    weight.index_add_(1, places[first[gone]].flatten(), weight[:, places[gone].flatten()])
    weight[:, places[gone].flatten()] = 0
