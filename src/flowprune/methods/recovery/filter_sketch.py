"""Filters that summarise those which have left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.interfaces import CutSlices, Recovery
from flowprune.engine.planning import CoupledModel
from flowprune.engine.tracing.filter_layers import filter_layers
from flowprune.errors import checked_name
from flowprune.methods.recovery._calibration.consumers import held_by_steps
from flowprune.methods.recovery._calibration.in_step import calibration_inputs
from flowprune.methods.recovery.frequent_directions import Tail, frequent_directions
from flowprune.methods.recovery.registry import REGISTRY

Form = Literal["rotated", "aligned", "original"]
Along = Literal["transposed", "memory"]
SKETCHED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@REGISTRY.register("filter_sketch")
class FilterSketch(Recovery):
    """What is left of a layer keeps the second moments of all its filters, also of those that have left.

    Lin et al., Filter Sketch for Network Pruning, IEEE TNNLS, arXiv 2001.08514: of a weight W, a row a filter,
    ``frequent_directions`` makes as many rows as filters are left, with ``W'^T W'`` near ``W^T W``. The rows of a sketch are
    nobody's filters, and what reads the channels was trained on filters. But moments are the same for every rotation of the rows:
    ``Q W'``, and here Q is the one that brings them nearest to the filters that are left (orthogonal Procrustes: with S these,
    ``Q = U V^T`` of ``S W'^T = U s V^T``). The layers of a coupled group are sketched side by side, as one matrix, so that a
    channel of theirs stays one; of their inputs only those that are left count. Biases and norms stay; ``batch_norm`` behind it
    makes statistics fit.

    "aligned" only reorders the rows: each goes, with its sign turned where needed, to the survivor that it is most like, by the
    assignment with the largest sum of absolute cosines (Hungarian method). That is one of those rotations, and farther away.

    "original" is the authors' own form: weights are sketched one by one along their filters, then along their input channels,
    rows stay in the order of the sketch, whatever channel they come to stand for, and the batch norms behind them start anew
    (1, 0, 0, 1). It has to be trained afterwards. Along input channels the authors' code reads the weight's memory in pieces
    instead of transposing it, so that a row mixes channels: ``along="memory"``. Agrees with their results (fixtures).

    Linear layers and convolutions without groups are sketched; grouped and depthwise ones, whose filters read different
    channels, transposed ones, and masked or quantized weights stay as the cut left them: ``left`` names them. The first batch
    is only an example input.

    Args:
        form: "rotated", "aligned" or "original".
        along: how the original form takes input channels as rows: "transposed" or "memory".
        normalize: whether a sketch is divided by its Frobenius norm, as the authors' commands do ("l2").
        tail: of the rows, see ``frequent_directions``; the original's is "dropped".

    Attributes:
        sketched: dotted paths of the layers.
        left: dotted path of a layer that lost filters -> why it was not sketched.
    """

    def __init__(
        self, *, form: Form = "rotated", along: Along = "transposed", normalize: bool = False, tail: Tail = "kept"
    ) -> None:
        self.form = checked_name("form", form, ("rotated", "aligned", "original"))
        self.along = checked_name("reading along the inputs", along, ("transposed", "memory"))
        self.tail = checked_name("tail", tail, ("kept", "dropped"))
        self.normalize = normalize
        self.sketched: tuple[str, ...] = ()
        self.left: dict[str, str] = {}
        self._held: dict[str, str] = {}

    def prepare(self, small: nn.Module, dense: nn.Module, plan: CutSlices, batches: Iterable[Any]) -> nn.Module:
        """Put the sketches into ``small`` and return it.

        Raises:
            DataError: no batch, or one without a tensor.
            TraceError, ModelError: as ``plan``.
        """
        example = calibration_inputs(dense, batches)[0]
        self.sketched, self.left = (), {}
        self._held = held_by_steps(small)
        with torch.no_grad():
            if self.form != "original":
                for group in CoupledModel.of(dense, example).coupling.groups:
                    self._align(group, small, dense, plan)
            else:
                self._as_published(small, dense, plan, example)
        return super().prepare(small, dense, plan, ())

    def _align(self, group: CoupledGroup, small: nn.Module, dense: nn.Module, plan: CutSlices) -> None:
        """The producers of a group, side by side."""
        stay: Any = None  # [channels], bool
        producers: list[tuple[str, Tensor, Tensor]] = []
        for member in group.members:
            name = member.name.rpartition(".")[0]
            if member.role != "output" or member.dimension != 0 or dense.state_dict()[member.name].dim() < 2:
                continue
            removed = plan.removed.get(member.name, {})
            gone = np.isin(member.indices, removed.get(0, ()))
            if not gone.any():
                continue
            reason = self._held.get(member.name) or _objection(dense.get_submodule(name))
            if reason is not None or not (gone.all(1) | ~gone.any(1)).all():
                self.left[name] = reason or "parts of its channels have left"
                continue
            stay = np.logical_not(gone.any(axis=1))
            weight = _without(dense.get_parameter(member.name), removed, 1)
            places = torch.from_numpy(member.indices)
            producers.append((member.name, weight[places.flatten()].reshape(len(places), -1).double(), places))
        if stay is None:
            return
        survivors = torch.from_numpy(np.flatnonzero(stay))
        rows = torch.cat([matrix for _, matrix, _ in producers], dim=1)
        sketch = self._sketch(rows, len(survivors))
        sketch = (rotated if self.form == "rotated" else aligned)(sketch, rows[survivors])
        start = 0
        for name, matrix, places in producers:
            part = sketch[:, start : start + matrix.shape[1]]
            start += matrix.shape[1]
            mine = small.get_parameter(name)
            whole = dense.get_parameter(name)
            kept = torch.ones(len(whole), dtype=torch.bool)
            kept[list(plan.removed.get(name, {}).get(0, ()))] = False
            number = kept.long().cumsum(0) - 1  # of a filter, once the others have left
            mine[number[places[survivors]].flatten()] = part.reshape(-1, *mine.shape[1:]).to(mine)
            self.sketched += (name.rpartition(".")[0],)

    def _as_published(self, small: nn.Module, dense: nn.Module, plan: CutSlices, example: Any) -> None:
        """Weights one by one, in no order that anybody else knows."""
        norms = {layer.weight: layer.norm for layer in filter_layers(small, example)}
        for name, removed in plan.removed.items():
            path, _, last = name.rpartition(".")
            if last != "weight" or not isinstance(dense.get_submodule(path), (*SKETCHED, nn.ConvTranspose2d)):
                continue
            if (reason := self._held.get(name) or _objection(dense.get_submodule(path))) is not None:
                self.left[path] = reason
                continue
            weight = dense.get_parameter(name).detach()
            for dimension in sorted(d for d in removed if d in (0, 1)):
                count = weight.shape[dimension] - len(removed[dimension])
                weight = self._along(weight, count, dimension)
            mine = small.get_parameter(name)
            mine.copy_(weight.to(mine))
            self.sketched += (path,)
            norm = norms.get(name)
            if norm is not None and 0 in removed:
                for tensor, value in (
                    (norm.weight, 1.0),
                    (norm.bias, 0.0),
                    (norm.running_mean, 0.0),
                    (norm.running_var, 1.0),
                ):
                    if tensor is not None:
                        small.state_dict(keep_vars=True)[tensor].fill_(value)

    def _along(self, weight: Tensor, count: int, dimension: int) -> Tensor:
        """A weight ``[filters, channels, ...]`` with ``count`` rows along one of its first two dimensions."""
        shape = list(weight.shape)
        shape[dimension] = count
        if dimension == 0 or self.along == "memory":
            return self._sketch(weight.reshape(weight.shape[dimension], -1), count).reshape(shape)
        turned = weight.transpose(0, 1)
        return self._sketch(turned.flatten(1), count).reshape(count, *turned.shape[1:]).transpose(0, 1)

    def _sketch(self, rows: Tensor, count: int) -> Tensor:
        sketch = frequent_directions(rows, count, tail=self.tail)
        return sketch / sketch.norm().clamp(min=torch.finfo(sketch.dtype).tiny) if self.normalize else sketch


def aligned(rows: Tensor, survivors: Tensor) -> Tensor:
    """The rows in the order of the survivors that they are most like, each with the sign by which it is like its own.

    Args:
        rows, survivors: ``[channels, d]``.
    """
    cosines = functional.normalize(rows.double(), dim=1) @ functional.normalize(survivors.double(), dim=1).mT
    mine, theirs = linear_sum_assignment(cosines.abs().cpu().numpy(), maximize=True)
    order = torch.from_numpy(mine[np.argsort(theirs)]).to(rows.device)
    signs = cosines[order, torch.arange(len(order), device=rows.device)].sign()
    return rows[order] * torch.where(signs == 0, 1, signs)[:, None]


def rotated(rows: Tensor, survivors: Tensor) -> Tensor:
    """The rows turned, all together, as near to the survivors as they can be; their second moments stay.

    Args:
        rows, survivors: ``[channels, d]``.
    """
    left, _, right = torch.linalg.svd(survivors.double() @ rows.double().mT)
    turned: Tensor = left @ right @ rows.double()
    return turned


def _objection(module: nn.Module) -> str | None:
    if type(module) not in SKETCHED:
        return f"a {type(module).__name__} is not sketched; only Linear, Conv1d, Conv2d and Conv3d themselves are"
    if getattr(module, "groups", 1) > 1:
        return "filters of a grouped convolution read different channels; a sketch would mix them"
    return None


def _without(weight: Tensor, removed: Any, dimension: int) -> Tensor:
    kept = torch.ones(weight.shape[dimension], dtype=torch.bool, device=weight.device)
    kept[list(removed.get(dimension, ()))] = False
    return weight.detach().index_select(dimension, kept.nonzero().flatten())
