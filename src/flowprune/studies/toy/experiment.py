"""Remove the lowest third of all hidden units by every criterion, from few and from many reference points, and see what is left."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.engine.coupling import CoupledGroup
from flowprune.engine.planning import CoupledModel
from flowprune.methods.importance import REGISTRY
from flowprune.pruning import plan, prune
from flowprune.studies.phases.criteria import importance_from
from flowprune.studies.toy.network import HIDDEN_LAYERS, accuracy, trained
from flowprune.studies.toy.plane_points import NAMES, Points, points

SAMPLES = (1, 5, 20, 100)
"""Reference points a class, where a criterion looks at data."""
EACH, TEST_EACH = 1000, 250
GRID = 100
EXTENT = 2.4
"""The pictured square reaches so many deviations of the points to every side."""


@dataclass
class ToyResult:
    """What was found.

    Attributes:
        dense: data set -> accuracy before, in per cent of fresh points.
        after: data set -> criterion -> reference points a class (0 where none are looked at) -> one accuracy a seed.
        left_out: criterion -> why it cannot judge such a network.
        width, seeds: as asked.
        removed, units: hidden units that left, of how many.
        regions: data set -> "dense" or criterion -> [GRID, GRID] classes decided, of the first seed with the most reference points.
        kept: data set -> criterion -> share of that square where the decision stayed.
    """

    dense: dict[str, float]
    after: dict[str, dict[str, dict[int, list[float]]]]
    left_out: dict[str, str]
    width: int
    seeds: int
    removed: int
    units: int
    regions: dict[str, dict[str, Tensor]] = field(repr=False)
    kept: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """As JSON, without the regions."""
        found = {key: value for key, value in vars(self).items() if key != "regions"}
        return asdict(ToyResult(**found, regions={})) | {"regions": None}

    def headers(self) -> tuple[str, ...]:
        """Of the table."""
        return ("data", "criterion", "no points", *(str(count) for count in self.samples()), "decisions kept %")

    def rows(self) -> list[tuple[str, ...]]:
        """The table: mean and deviation of the accuracy over the seeds, by reference points a class."""
        found = []
        for name, by_criterion in self.after.items():
            found.append((name, "before", f"{self.dense[name]:.1f}", *("" for _ in self.samples()), "100.0"))
            for criterion, by_count in by_criterion.items():
                cells = [spread(by_count.get(count, [])) for count in (0, *self.samples())]
                found.append((name, criterion, *cells, f"{100 * self.kept[name][criterion]:.1f}"))
        return found

    def samples(self) -> list[int]:
        """The numbers of reference points there are."""
        return sorted({count for d in self.after.values() for c in d.values() for count in c} - {0})


def spread(numbers: Sequence[float]) -> str:
    """Mean and deviation of the sample, as text."""
    if not numbers:
        return ""
    mean = f"{statistics.mean(numbers):.1f}"
    return mean if len(numbers) < 2 else f"{mean} ± {statistics.stdev(numbers):.1f}"


def toy_experiment(
    *,
    seeds: int = 2,
    samples: Sequence[int] = SAMPLES,
    criteria: Sequence[str] | None = None,
    width: int = 1000,
    progress: Callable[[str], None] = lambda line: None,
) -> ToyResult:
    """Run it: no fine-tuning, real cuts, all criteria on the same network and the same reference points.

    Yeom et al., Toward Compact Deep Neural Networks via Energy-Aware Pruning, arXiv 2103.10858, and earlier work of the same first
    author: two moons, two circles and a spiral of four arms, 1000 points a class, hidden layers of 1000 units, of which the
    third with the lowest scores leaves, ranked globally.

    Args:
        seeds: how often the reference points, and criteria of chance, are drawn anew. The networks are trained once.
        samples: reference points a class.
        criteria: registered names; all that can judge such a network if None.
        width: of each hidden layer.
        progress: receives a line for every data set and criterion.

    Raises:
        UnknownNameError: a criterion's name is not registered.
    """
    names = [name for name in (criteria if criteria is not None else REGISTRY) if REGISTRY[name]]
    result = ToyResult({}, {}, {}, width, seeds, HIDDEN_LAYERS * width // 3, HIDDEN_LAYERS * width, {}, {})
    for data_name in NAMES:
        train, test = points(data_name, EACH, 0), points(data_name, TEST_EACH, 1)
        model = trained(train, width, 0)
        result.dense[data_name] = accuracy(model, test)
        progress(f"{data_name}: {result.dense[data_name]:.1f} % before")
        dense = decisions(model)
        result.regions[data_name] = {"dense": dense}
        result.after[data_name], result.kept[data_name] = {}, {}
        groups = CoupledModel.of(model, train.x[:1]).coupling.groups
        for name in names:
            needs_data = bool(getattr(REGISTRY[name], "needs_data", False))
            chance = "seed" in inspect.signature(REGISTRY[name]).parameters
            by_count: dict[int, list[float]] = {}
            pictured: nn.Module | None = None
            for count in sorted(samples) if needs_data else (0,):
                for seed in range(seeds if needs_data or chance else 1):
                    small = _cut(
                        model, train, groups, name, {"seed": seed} if chance else {}, count, seed, result.removed
                    )
                    if small is None:
                        result.left_out[name] = "it gives no score to a layer without batch norm"
                        break
                    by_count.setdefault(count, []).append(accuracy(small, test))
                    pictured = small if seed == 0 else pictured
            if pictured is None:
                continue
            region = decisions(pictured)
            result.after[data_name][name] = by_count
            result.regions[data_name][name] = region
            result.kept[data_name][name] = (region == dense).float().mean().item()
            progress(f"{data_name}, {name}: {', '.join(spread(found) for found in by_count.values())}")
    return result


def decisions(model: nn.Module) -> Tensor:
    """int64 [GRID, GRID]: the class of every point of the pictured square, the top row first."""
    steps = torch.linspace(-EXTENT, EXTENT, GRID)
    across, up = torch.meshgrid(steps, steps.flip(0), indexing="xy")
    with torch.no_grad():
        found: Tensor = model(torch.stack([across, up], -1).reshape(-1, 2)).argmax(1)
    return found.reshape(GRID, GRID)


def _cut(
    model: nn.Module,
    data: Points,
    groups: Sequence[CoupledGroup],
    name: str,
    options: dict[str, Any],
    count: int,
    seed: int,
    removed: int,
) -> nn.Module | None:
    """The network without its ``removed`` lowest hidden units; None where the criterion has no opinion."""
    criterion = importance_from(name, options, lambda: [data.some(count, seed)])
    scores = criterion(model, data.x[:1], groups)
    if any(bool(torch.isinf(score).any()) for score in scores):
        return None
    order = torch.cat(scores).argsort(stable=True)[:removed]
    owner = torch.cat([torch.full((group.channels,), number) for number, group in enumerate(groups)])
    lost = torch.bincount(owner[order], minlength=len(groups)).tolist()
    kept = {
        group.name: max(1e-9, (group.channels - gone) / group.channels)
        for group, gone in zip(groups, lost, strict=True)
    }
    made = plan(model, data.x[:1], importance=lambda *_: scores, channels=kept, largest_cut=1.0)
    return prune(model, made).eval()
