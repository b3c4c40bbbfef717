"""Nuclear norm of a channel's feature maps: the energy of energy-aware pruning."""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from flowprune.engine.measuring.batches import model_device
from flowprune.engine.tracing import Graph, first_tensor, trace
from flowprune.errors import DataError, FlowpruneError, ModelError, checked_name
from flowprune.methods.importance._maps.map_criterion import MapCriterion
from flowprune.methods.importance._maps.map_scores import check_map
from flowprune.methods.importance._maps.map_stages import MapAggregation, Stage
from flowprune.methods.importance._maps.map_watch import evaluation_shadow, same_output, watch_maps
from flowprune.methods.importance._maps.map_work import (
    GIBIBYTE,
    MapSize,
    MapWork,
    passes,
    positions_of,
    state_bytes,
    whole,
)
from flowprune.methods.importance._passes.calibration_data import inputs_in
from flowprune.methods.importance._passes.full_precision import full_precision
from flowprune.methods.importance._scores.checked_numbers import checked_count
from flowprune.methods.importance._scores.group_scores import Normalization
from flowprune.methods.importance._spectra.feature_spectra import (
    FeatureSpectra,
    MeanSpectra,
    StackedSpectra,
    stacked_scores,
)
from flowprune.methods.importance.registry import REGISTRY

if TYPE_CHECKING:
    from flowprune.engine.coupling import FeatureMap

Reading = Literal["stacked", "mean"]


@REGISTRY.register("nuclear_norm")
class NuclearNorm(MapCriterion):
    """Sum of the singular values of a channel's reshaped feature maps, ``s_c = |A_c|_*``.

    Yeom et al., Toward Compact Deep Neural Networks via Energy-Aware Pruning, arXiv 2103.10858. The abstract leaves
    open what is reshaped, so both readings are here. ``"stacked"``: all N maps of the channel as one (H*W) x N matrix,
    one nuclear norm. ``"mean"``: the mean over images of the nuclear norm of each H x W map. For 1 x 1 maps these are
    the Euclidean norm of the N values and the mean of their absolute values.
    Needs data: yes. Labels: no. Gradients: no.

    Both are exact up to rounding: the images are added up as Gram matrices on the shorter side of A, so the scores depend on the
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
        normalize: what each layer's scores are divided by before one global ranking. The abstract does not say. The default
            ``"max"`` does not depend on a layer's width and kept more accuracy on the CIFAR ResNets than ``"mean"`` and
            ``"l2"``, the others measured there (docs/one-shot.md). ``"l2"`` scales as 1/sqrt(C), so channels of wide
            layers go first.
        aggregation: how the maps coupled into one channel share one score; ``"after-addition"`` looks at the maps after
            the residual additions only (and takes their mean).
        images: look at so many images only, the first ones; None for all that ``batches`` gives.
        positions: an approximation of ``"stacked"``: look at so many positions of larger maps only, drawn at random but
            always the same. docs/importance.md has its measured speed and error. None, exact, looks at all of them.
        memory: GiB for what is kept between batches, ``"stacked"`` only. If the Gram matrices of the whole network fit,
            the data streams through once. Otherwise the inputs are kept, and the network runs over them several times,
            each time for as many channels as fit. The activations of one batch come on top, and working memory: 64 MiB, or
            a few Gram matrices for each thread where these are larger.
        dtype: what the spectra of ``"stacked"`` are computed in, torch's or its name. None: float64 for models in float64 and
            for maps of up to 64 positions, float32 for larger ones, which errs by about 1e-6 of a score (docs/importance.md
            has the most on a pretrained ResNet-56). Where the maps are combinations of a few, float64 steps in; if there are
            more images than positions, the score may be 2e-2 too high then. ``"mean"`` is always computed in float64.

    Raises (when called):
        DataError: no batch, or a used-up generator; batches of different resolution; inputs larger than ``memory``.
        ModelError: a feature map is NaN or infinite, or too large for ``dtype``.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        reading: Reading = "stacked",
        stage: Stage = "activated",
        normalize: Normalization = "max",
        aggregation: MapAggregation = "mean",
        images: int | None = None,
        positions: int | None = None,
        memory: float = 2.0,
        dtype: torch.dtype | Literal["float32", "float64"] | None = None,
    ) -> None:
        self.reading = checked_name("reading", reading, get_args(Reading))
        if not (isinstance(memory, (int, float)) and memory > 0):
            raise FlowpruneError(f"memory={memory!r} is not a positive number of GiB")
        if positions is not None and reading == "mean":
            raise FlowpruneError("positions= picks rows of the stacked matrix; reading='mean' needs whole maps")
        super().__init__(batches, stage=stage, normalize=normalize, aggregation=aggregation)
        self.images = None if images is None else checked_count("images", images)
        self.positions = None if positions is None else checked_count("positions", positions)
        self.memory = memory
        self.dtype = checked_dtype(dtype)

    def map_scores(self, model: nn.Module, inputs: Any, maps: Sequence[FeatureMap]) -> list[torch.Tensor]:
        """The nuclear norm ``[channels]`` of every map."""
        source = inputs_in(self.batches, model_device(model), "NuclearNorm")
        stream = source if self.images is None else first_images(source, self.images)
        first = next(stream)
        graph, twin = trace(model, inputs), evaluation_shadow(model)
        sizes = self._sizes(model, graph, first, maps)
        blocks: list[list[torch.Tensor]] = [[] for _ in maps]
        with torch.random.fork_rng(devices=[]), full_precision():
            for works, batches, images in self._schedule(itertools.chain([first], stream), maps, sizes):
                for work, scores in zip(works, self._one_pass(twin, graph, works, sizes, batches, images), strict=True):
                    blocks[work.layer].append(scores)
        return [torch.cat(scores) for scores in blocks]

    def _schedule(
        self, stream: Iterator[Any], maps: Sequence[FeatureMap], sizes: list[MapSize]
    ) -> Iterator[tuple[list[MapWork], Iterable[Any], int | None]]:
        """What each pass looks at, the inputs it runs over, and how many images these are, where that is known."""
        if self.reading == "mean":
            yield whole(maps), stream, None
            return
        limit = int(self.memory * GIBIBYTE)
        grams = sum(state_bytes(size, None) * len(map.indices) for map, size in zip(maps, sizes, strict=True))
        if grams <= limit:
            yield whole(maps), stream, None
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
        for works in passes(maps, sizes, images, room):
            yield works, cached, images

    def _one_pass(
        self,
        twin: nn.Module,
        graph: Graph,
        works: list[MapWork],
        sizes: list[MapSize],
        batches: Iterable[Any],
        images: int | None,
    ) -> list[torch.Tensor]:
        """Run the model's shadow over ``batches`` and score what ``works`` names."""
        stacked = [StackedSpectra(sizes[work.layer].dtype, images, self.positions) for work in works]
        spectra: Sequence[FeatureSpectra] = stacked if self.reading == "stacked" else [MeanSpectra() for _ in works]
        shapes: list[torch.Size | None] = [None] * len(works)
        at: dict[tuple[int, int], list[int]] = {}
        for index, work in enumerate(works):
            at.setdefault(work.map.position, []).append(index)

        def see(position: tuple[int, int], tensor: torch.Tensor) -> None:
            check_map(tensor, works[at[position][0]].map.unit)
            for index in at[position]:
                maps = works[index].maps(tensor)
                if self.reading == "stacked" and maps.shape[1:] != (shapes[index] or maps.shape[1:]):
                    raise DataError(
                        f"the feature map of {works[index].map.unit!r} changes its size from batch to batch; stacking "
                        "needs inputs of one resolution (use reading='mean' for mixed ones)"
                    )
                shapes[index] = maps.shape[1:]
                spectra[index].add(maps)

        for batch in batches:
            watch_maps(twin, graph, batch, at, see)
        scored = stacked_scores(stacked) if self.reading == "stacked" else [spectrum.scores() for spectrum in spectra]
        found = [scores.cpu() for scores in scored]
        for work, scores in zip(works, found, strict=True):
            if not bool(torch.isfinite(scores).all()):
                raise ModelError(
                    f"the feature map of {work.map.unit!r} is so large that its squares are no numbers in float32; "
                    "pass dtype=torch.float64, or look at why the model's activations are so large"
                )
        return found

    def _sizes(self, model: nn.Module, graph: Graph, first: Any, maps: Sequence[FeatureMap]) -> list[MapSize]:
        """What one channel of each map takes, for inputs like the first batch, from a trace (no memory)."""
        shapes: dict[tuple[int, int], tuple[tuple[int, ...], torch.dtype]] = {}
        on_data = trace(model, first)
        for map in maps:
            value = on_data.values[same_output(graph, map.position, on_data)]
            shapes[map.position] = value.shape, value.dtype
        sizes = []
        for map in maps:
            shape, dtype = shapes[map.position]
            positions = min(positions_of(map, shape), self.positions or sys.maxsize)
            sizes.append(MapSize(positions, self.dtype or affordable_dtype(positions, dtype)))
        return sizes


def checked_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """``dtype`` or the one of this name; ``FlowpruneError`` if the nuclear norm cannot be computed in it."""
    found = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if found not in (None, torch.float32, torch.float64):
        raise FlowpruneError(f"NuclearNorm computes in float32 or float64, not {dtype}")
    return found


def affordable_dtype(positions: int, dtype: torch.dtype) -> torch.dtype:
    """float64 for models in float64 and for short sides, where it costs little; float32 for the others."""
    return torch.float64 if dtype == torch.float64 or positions <= _SHORT else torch.float32


_SHORT = 64
"""A Gram matrix of this side is a hundredth of a forward pass's work even in float64."""


def first_images(batches: Iterator[Any], count: int) -> Iterator[Any]:
    """The batches' first ``count`` images; what comes after them is not read."""
    left = count
    for batch in batches:
        size = first_tensor(batch).shape[0]
        yield batch if size <= left else tree_map_only(torch.Tensor, operator.itemgetter(slice(left)), batch)
        left -= size
        if left <= 0:
            return
