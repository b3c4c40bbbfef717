"""A plan: which slices leave which tensors, what that changes, and what was asked and reached. Plain data, JSON-able."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from flowprune.engine.signatures import Scope
from flowprune.errors import ArtifactError

FORMAT = 1
_NOT_IN_SUMMARY = ("format", "scope", "removed", "shapes", "attributes", "layers", "shifts")


@dataclass(frozen=True)
class AttributeChange:
    """An integer attribute of a module that follows the cut; ``position`` where it is an element of a list."""

    module: str
    name: str
    position: int | None
    before: int
    after: int


@dataclass(frozen=True)
class LayerChange:
    """A layer before and after: filters, multiply-accumulates an image, parameters."""

    layer: str
    channels: tuple[int, int]
    macs: tuple[int, int]
    params: tuple[int, int]


@dataclass(frozen=True)
class Fold:
    """Constant channels that left a consumer and live on in its bias, or in the next batch norm's running mean.

    Attributes:
        consumer: dotted path of the layer that read the channels.
        target: dotted name of the tensor that takes their constant.
        channels: how many constant channels were folded.
        exact: whether the consumer sees the constant alike at every position (no padding).
        largest_change: largest difference the fold makes to the consumer's output at any position, in standard deviations of that
            output where a batch norm follows, else absolute.
    """

    consumer: str
    target: str
    channels: int
    exact: bool
    largest_change: float


@dataclass(frozen=True)
class RoundedWidth:
    """The output width of a layer under ``round_to``: what the budget asked for, what it became, and why that is no multiple."""

    layer: str
    asked: int
    reached: int
    unmet: str = ""


@dataclass(frozen=True)
class BranchChange:
    """A residual branch that loses ends of its own, while the stream's channels live on.

    Attributes:
        module: dotted path of what is changed: the branch's last module ("opened", "ended"), the block ("constant", "vanished"), or
            the branch's first convolution ("reading").
        kind: "opened": the branch computes its live ends and puts them at their places; "ended": none is left, and the branch gives
            its constants; "constant": nor is anything else in the block, which becomes act(x + constant); "vanished": that is x;
            "reading": the convolution reads only the channels that are not always zero there and that it has weights for.
        end: dotted path of the layer whose filters are the branch's ends.
        channels: width of the stream in the dense model.
        live: how many ends are left, or channels read.
        rank: number of dimensions of the branch's output.
        activation: "relu", "relu6" or "", for "constant".
        stand_ins: for "ended": modules inside the branch that only keep its positions now.
        stream_removed: for "reading": which of the stream's channels leave.
        inserted, deleted: the operators that this adds to the evaluation pass, and takes from it.
    """

    module: str
    kind: str
    end: str
    channels: int
    live: int
    rank: int
    activation: str = ""
    stand_ins: tuple[str, ...] = ()
    stream_removed: tuple[int, ...] = ()
    inserted: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind == "opened":
            return f"branch {self.module}: {self.live} of {self.channels} ends live, put at their places in the stream"
        if self.kind == "reading":
            left = self.channels - len(self.stream_removed)
            return f"branch {self.module}: reads {self.live} of the {left} channels of its stream"
        became = {
            "ended": "gives its constants",
            "constant": f"becomes {self.activation}(x + constant)" if self.activation else "becomes x + constant",
            "vanished": "vanishes",
        }
        return f"branch {self.module}: no end lives; it {became[self.kind]}"


@dataclass(frozen=True)
class Plan:
    """What to cut.

    Example:
        >>> import torch, flowprune as fp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> plan = fp.plan(model, torch.zeros(1, 4), importance=fp.importance.L2(), channels=0.5)
        >>> [(layer.layer, layer.channels) for layer in plan.layers]
        [('0', (8, 4)), ('2', (2, 2))]
        >>> plan.frozen
        {'2.weight': 'it is an output of the model'}
        >>> fp.Plan.from_dict(plan.as_dict()) == plan
        True

    Attributes:
        asked: the budget as asked ("macs=0.5").
        scope: "global" or "local".
        importance: name of the criterion.
        removed: tensor name -> dimension -> indices that leave.
        shapes: tensor name -> its shape in the dense model; every tensor that is cut.
        attributes: integers of modules that change.
        layers: every convolution and linear layer, before and after.
        macs, params: of the model, before and after; macs an image.
        frozen: weight name -> why (some of) its filters stay.
        folds: what constant channels became.
        round_to: what every layer's width was to be a multiple of.
        rounded: every layer whose width was asked to be one; empty for 1.
        target: the largest count allowed, of a budget of MACs or parameters.
        smallest_step: by how much that count would grow at least if a channel came back; only where the result is more than
            0.5 % below the target.
        latency: what was asked of the time and what was measured, where the budget is one of time.
        kept_alive: dead filters that stay, because their constant could not be folded within the tolerance: layer -> how many.
        stays: weight name -> why some of its filters stay that a training's outcome said should leave.
        branches: residual branches that lose ends while their stream lives; names of tensors are those of the model so changed.
        branches_left: last module of a branch -> why it keeps its dead ends.
        shifts: tensor name -> what is added to it (full dense length), for the folds.
    """

    asked: str
    scope: Scope
    importance: str
    removed: Mapping[str, Mapping[int, tuple[int, ...]]]
    shapes: Mapping[str, tuple[int, ...]]
    attributes: tuple[AttributeChange, ...]
    layers: tuple[LayerChange, ...]
    macs: tuple[int, int]
    params: tuple[int, int]
    frozen: Mapping[str, str] = field(default_factory=dict)
    folds: tuple[Fold, ...] = ()
    kept_alive: Mapping[str, int] = field(default_factory=dict)
    stays: Mapping[str, str] = field(default_factory=dict)
    round_to: int = 1
    rounded: tuple[RoundedWidth, ...] = ()
    target: int | None = None
    smallest_step: int | None = None
    latency: Mapping[str, Any] = field(default_factory=dict)
    branches: tuple[BranchChange, ...] = ()
    branches_left: Mapping[str, str] = field(default_factory=dict)
    shifts: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_empty(self) -> bool:
        """Whether nothing leaves."""
        return not self.removed and not self.branches

    @property
    def filters_removed(self) -> int:
        """Filters of convolutions and units of linear layers that leave."""
        return sum(layer.channels[0] - layer.channels[1] for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data. The shifts are lists of numbers, exact to the last bit."""
        data = {**vars(self), "format": FORMAT}
        data["shifts"] = {name: shift.tolist() for name, shift in self.shifts.items()}
        data["removed"] = {
            name: {str(d): list(indices) for d, indices in dimensions.items()}
            for name, dimensions in self.removed.items()
        }
        data["shapes"] = {name: list(shape) for name, shape in self.shapes.items()}
        for key in ("attributes", "layers", "folds", "rounded", "branches"):
            data[key] = [asdict(entry) for entry in getattr(self, key)]
        data["macs"], data["params"] = list(self.macs), list(self.params)
        for key in ("frozen", "kept_alive", "stays", "latency", "branches_left"):
            data[key] = dict(getattr(self, key))
        return data

    def summary(self) -> dict[str, Any]:
        """What results say of the plan, JSON-able: what was asked, reached and decided, without slices, weights and layers."""
        whole = {key: value for key, value in self.as_dict().items() if key not in _NOT_IN_SUMMARY}
        return {**whole, "filters_removed": self.filters_removed}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``as_dict`` wrote down.

        Raises:
            ArtifactError: if the data is not such a plan.
        """
        try:
            if data["format"] != FORMAT:
                raise ArtifactError(f"the plan has format {data['format']!r}; this version reads format {FORMAT}")
            fields = {key: value for key, value in data.items() if key != "format"}
            fields["removed"] = {
                name: {int(d): tuple(indices) for d, indices in dimensions.items()}
                for name, dimensions in data["removed"].items()
            }
            fields["shapes"] = {name: tuple(shape) for name, shape in data["shapes"].items()}
            fields["attributes"] = tuple(AttributeChange(**entry) for entry in data["attributes"])
            fields["layers"] = tuple(
                LayerChange(entry["layer"], tuple(entry["channels"]), tuple(entry["macs"]), tuple(entry["params"]))
                for entry in data["layers"]
            )
            fields["folds"] = tuple(Fold(**entry) for entry in data["folds"])
            fields["rounded"] = tuple(RoundedWidth(**entry) for entry in data.get("rounded", ()))
            fields["branches"] = tuple(_branch(entry) for entry in data.get("branches", ()))
            fields["macs"], fields["params"] = tuple(data["macs"]), tuple(data["params"])
            fields["shifts"] = {
                name: torch.tensor(shift, dtype=torch.float64) for name, shift in data.get("shifts", {}).items()
            }
            return cls(**fields)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"this is not a plan of flowprune ({type(error).__name__}: {error})") from error

    def __str__(self) -> str:
        lines = [f"{'layer':<36} {'channels':>13} {'MACs':>25} {'parameters':>23}"]
        for layer in self.layers:
            lines.append(
                f"{layer.layer:<36} {_change(layer.channels):>13} {_change(layer.macs):>25} {_change(layer.params):>23}"
            )
        lines.append(f"{'in all':<36} {'':>13} {_change(self.macs):>25} {_change(self.params):>23}")
        macs, params = (after / max(before, 1) for before, after in (self.macs, self.params))
        lines.append(
            f"asked: {self.asked} ({self.scope}, {self.importance}); reached: {macs:.2%} of the MACs and {params:.2%} of the "
            f"parameters, {self.filters_removed} filters removed"
        )
        if self.smallest_step is not None and self.target is not None:
            lines.append(
                f"the target of {self.target:,} cannot be met more closely: giving back any channel adds at least "
                f"{self.smallest_step:,}"
            )
        lines += _rounding_lines(self.round_to, self.rounded)
        if self.latency:
            low, high = self.latency["quartiles"]
            lines.append(
                f"{self.asked} measured: {self.latency['reached']:.4g} ms beside the dense model's {self.latency['dense']:.4g} ms "
                f"({self.latency['share']:.3g} of it in the middle of all turns), half of {self.latency['runs']} runs "
                f"between {low:.4g} and {high:.4g} (batch of {self.latency['batch']}, {self.latency['device']}, "
                f"{self.latency['threads']} threads{', onnxruntime' * (self.latency.get('backend') == 'onnxruntime')})"
            )
        lines += [str(branch) for branch in self.branches]
        for fold in self.folds:
            how = "exactly" if fold.exact else f"up to {fold.largest_change:.2g} off at the border"
            lines.append(f"folded: {fold.channels} constant channels of {fold.consumer} into {fold.target}, {how}")
        lines += [
            f"kept: {count} dead filters of {layer}, whose constant cannot be folded"
            for layer, count in self.kept_alive.items()
        ]
        lines += [f"kept: {name}: {reason}" for name, reason in self.stays.items()]
        lines += [f"branch {module} keeps its dead ends: {reason}" for module, reason in self.branches_left.items()]
        lines += [f"frozen: {name}: {reason}" for name, reason in self.frozen.items()]
        return "\n".join(lines)


def _branch(entry: Mapping[str, Any]) -> BranchChange:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return BranchChange(**fields)


def _rounding_lines(multiple: int, rounded: tuple[RoundedWidth, ...]) -> list[str]:
    if multiple == 1:
        return []
    lines = [f"widths rounded to multiples of {multiple}: {sum(not r.unmet for r in rounded)} of {len(rounded)} layers"]
    for width in rounded:
        if width.unmet:
            lines.append(f"not rounded: {width.layer} keeps {width.reached} (asked: {width.asked}): {width.unmet}")
        elif width.asked != width.reached:
            lines.append(f"rounded: {width.layer}: asked {width.asked}, reached {width.reached}")
    return lines


def _change(pair: tuple[int, int]) -> str:
    before, after = pair
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"
