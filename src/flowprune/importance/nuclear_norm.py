"""Nuclear norm of a channel's feature maps: the energy of energy-aware pruning."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from flowprune.errors import DataError, FlowpruneError, ModelError, UnknownNameError
from flowprune.importance.aggregation import group_scores
from flowprune.importance.feature_spectra import FeatureSpectra, MeanSpectra, StackedSpectra
from flowprune.importance.map_work import GIBIBYTE, MapSize, MapWork, passes, size_of, state_bytes, whole
from flowprune.importance.normalization import Normalization, checked_normalization
from flowprune.importance.registry import REGISTRY
from flowprune.importance.spectrum import full_precision
from flowprune.importance.stages import MapAggregation, Stage, checked_map_aggregation, checked_stage, maps_for
from flowprune.measuring.batches import input_of, model_device
from flowprune.tracing import first_tensor, observe, trace

if TYPE_CHECKING:
    from flowprune.coupling import CoupledGroup, FeatureMap

Reading = Literal["stacked", "mean"]


@REGISTRY.register("nuclear_norm")
class NuclearNorm:
    """Sum of the singular values of a channel's reshaped feature maps, ``s_c = |A_c|_*``.

    Yeom et al., Toward Compact Deep Neural Networks via Energy-Aware Pruning, arXiv 2103.10858. The abstract leaves
    open what is reshaped, so both readings are here. ``"stacked"``: all N maps of the channel as one (H*W) x N matrix,
    one nuclear norm. ``"mean"``: the mean over images of the nuclear norm of each H x W map. For 1 x 1 maps these are
    the Euclidean norm of the N values and the mean of their absolute values.
    Needs data: yes. Labels: no. Gradients: no.

    Both are exact: the images are added up as Gram matrices on the shorter side of A, so the scores depend on the
    images alone, not on how they were split into batches (up to rounding). The model runs in evaluation mode.

    Args:
        batches: an iterable of inputs, of (input, target) pairs or of dictionaries of keyword inputs; read once for
            each call of this object, so a generator serves one call. 5 batches of 128 training images are what the
            project's tables use.
        reading: ``"stacked"`` or ``"mean"``.
        stage: where the maps are taken: ``"convolution"`` (as the layer returns them), ``"normalized"`` (after its
            batch norm), ``"activated"`` (after its activation), ``"added"`` (after the residual addition and its
            activation). A layer that has no such stage is seen at the next later one it reaches, else at the last
            earlier one.
        normalize: what each layer's scores are divided by before one global ranking; the default ``"l2"`` scales as
            1/sqrt(C), so channels of wide layers go first; ``"mean"`` and ``"max"`` do not depend on the width.
        aggregation: how the maps coupled into one channel share one score; ``"after-addition"`` looks at the maps after
            the residual additions only (and takes their mean).
        memory: GiB for what is kept between batches, ``"stacked"`` only. If the Gram matrices of the whole network fit,
            the data streams through once. Otherwise the inputs are kept, and the network runs over them several times,
            each time for as many channels as fit. The activations of one batch and 64 MiB of working memory come on
            top.
        dtype: what the spectra are computed in; ``torch.float32`` is faster on a GPU and errs by about 1e-5 of a score.

    Raises (when called):
        DataError: no batch, or a used-up generator; batches of different resolution; inputs larger than ``memory``.
        ModelError: a feature map is NaN or infinite.
    """

    needs_data: ClassVar[bool] = True

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        reading: Reading = "stacked",
        stage: Stage = "activated",
        normalize: Normalization = "l2",
        aggregation: MapAggregation = "mean",
        memory: float = 2.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if reading not in get_args(Reading):
            raise UnknownNameError("reading", reading, get_args(Reading))
        if dtype not in (torch.float32, torch.float64):
            raise FlowpruneError(f"NuclearNorm computes in torch.float32 or torch.float64, not {dtype}")
        if not memory > 0:
            raise FlowpruneError(f"memory={memory!r} is not a positive number of GiB")
        self.batches = batches
        self.reading = reading
        self.stage = checked_stage(stage)
        self.normalize = checked_normalization(normalize)
        self.aggregation = checked_map_aggregation(aggregation)
        self.memory = memory
        self.dtype = dtype

    def __call__(self, model: nn.Module, inputs: Any, groups: Sequence[CoupledGroup]) -> list[torch.Tensor]:
        """One float64 tensor ``[channels]`` for each group; ``inf`` for a group that has no feature map."""
        chosen = [maps_for(group, self.stage, self.aggregation) for group in groups]
        layers = iter(self._layer_scores(model, list(itertools.chain.from_iterable(chosen))))
        scored = [
            [
                (feature.position, scores)
                for feature, scores in zip(maps, itertools.islice(layers, len(maps)), strict=True)
            ]
            for maps in chosen
        ]
        return group_scores(scored, groups, self.normalize, self.aggregation)

    def _layer_scores(self, model: nn.Module, maps: list[FeatureMap]) -> list[torch.Tensor]:
        """Raw scores ``[channels]`` of every map."""
        if not maps:
            return []
        device = model_device(model)
        source = (input_of(batch, device) for batch in self.batches)
        first = next(source, None)
        if first is None:
            raise DataError(
                "NuclearNorm was given no batch; an iterator can be read only once, so pass a list or a DataLoader"
            )
        stream = itertools.chain([first], source)
        blocks: list[list[torch.Tensor]] = [[] for _ in maps]
        with torch.random.fork_rng(devices=[]), full_precision():
            for works, batches in self._schedule(model, first, stream, maps):
                for work, scores in zip(works, self._one_pass(model, works, batches), strict=True):
                    blocks[work.layer].append(scores)
        return [torch.cat(scores) for scores in blocks]

    def _schedule(
        self, model: nn.Module, first: Any, stream: Iterator[Any], maps: list[FeatureMap]
    ) -> Iterator[tuple[list[MapWork], Iterable[Any]]]:
        """What each pass looks at, and the inputs it runs over."""
        if self.reading == "mean":
            yield whole(maps), stream
            return
        limit = int(self.memory * GIBIBYTE)
        sizes = _sizes(model, first, maps)
        grams = sum(
            state_bytes(size, None, self.dtype) * len(map.indices) for map, size in zip(maps, sizes, strict=True)
        )
        if grams <= limit:
            yield whole(maps), stream
            return
        cached: list[Any] = []
        room = limit
        for batch in stream:
            room -= sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor))
            if room < 0:
                raise DataError(
                    f"the inputs alone take more than memory={self.memory:g} GiB, and keeping the Gram "
                    f"matrices instead takes {grams / GIBIBYTE:.1f} GiB; raise memory=, pass fewer images, or use reading='mean'"
                )
            cached.append(batch)
        images = sum(first_tensor(batch).shape[0] for batch in cached)
        for works in passes(maps, sizes, images, self.dtype, room):
            yield works, cached

    def _one_pass(self, model: nn.Module, works: list[MapWork], batches: Iterable[Any]) -> list[torch.Tensor]:
        """Run the model over ``batches`` and score what ``works`` names."""
        spectra: list[FeatureSpectra] = [
            StackedSpectra(self.dtype) if self.reading == "stacked" else MeanSpectra(self.dtype) for _ in works
        ]
        shapes: list[torch.Size | None] = [None] * len(works)
        positions = {work.map.position for work in works}
        for batch in batches:
            observed = observe(model, batch, positions)
            for position, tensor in observed.items():
                if not bool(torch.isfinite(tensor).all()):
                    unit = next(work.map.unit for work in works if work.map.position == position)
                    raise ModelError(
                        f"the feature map of {unit!r} holds NaN or infinite values; check the weights and the inputs"
                    )
            for index, (work, spectrum) in enumerate(zip(works, spectra, strict=True)):
                maps = work.maps(observed[work.map.position])
                if self.reading == "stacked" and maps.shape[1:] != (shapes[index] or maps.shape[1:]):
                    raise DataError(
                        f"the feature map of {work.map.unit!r} changes its size from batch to batch; stacking "
                        "needs inputs of one resolution (use reading='mean' for mixed ones)"
                    )
                shapes[index] = maps.shape[1:]
                spectrum.add(maps)
            del observed
        return [spectrum.scores().cpu() for spectrum in spectra]


def _sizes(model: nn.Module, inputs: Any, maps: Sequence[FeatureMap]) -> list[MapSize]:
    """Sizes of the maps for this input, from a trace (no memory)."""
    graph = trace(model, inputs)
    sizes = []
    for map in maps:
        index, output = map.position
        number = graph.operations[index].outputs[output]
        assert number is not None
        value = graph.values[number]
        sizes.append(size_of(map, value.shape, value.dtype))
    return sizes
