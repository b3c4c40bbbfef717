"""What each part of feature flow regularization does to ResNet-20 on CIFAR-10, and what of it can really be removed.

    python benchmarks/ablation/run.py [--only PATTERN]... [--data-dir DIR]     # goes on where it stopped
    python benchmarks/ablation/run.py --list                                   # every cell, and how far it is
    python benchmarks/ablation/run.py --measure                                # measure anew from the kept weights, train nothing
    python benchmarks/ablation/run.py --full                                   # 200 epochs, all images: for a GPU

A cell is one training, then its measurement. {no term, gradient, curvature, both} x {skip, project} x {three reductions} at one
share of the task loss, the winner and the default at five shares, three seeds of the default and of no penalty, and a few weight
decays. One JSON a cell in results/ablation/; weights and checkpoints in runs/ablation/, which is not committed. A finished cell is
not done again, a training goes on from its last epoch, and a trained cell whose result is missing is only measured.
``pages.py ablation`` makes the tables of docs/ablation.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowprune import models
from flowprune.artifacts.atomic_write import write_text
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.pruning import plan, prune
from flowprune.reporting import environment
from flowprune.studies.pipeline.measurement import measured
from flowprune.training import Data, TrainingSettings, evaluate, load_data, train

TERMS = ("gradient", "curvature", "both")
ACROSS = ("project", "skip")
REDUCTIONS = ("mean", "channel", "sum")
GRID_SHARE = 5
"""Per cent of the task loss, each term: the largest that leaves the accuracy within 10 points in the short schedule."""
SHARES = (2, 5, 10, 20, 50)
THRESHOLDS = (0.01, 0.1)
"""Of the removal: what counts as dead everywhere else, and ten times that, since in so few steps hardly a filter gets there."""
BRANCHES: tuple[bool | str, ...] = (False, True, "always")
WEIGHTS, TRAINED = "weights.pt", "trained.json"


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        terms: "none", "gradient", "curvature" or "both".
        share: per cent of the task loss that each term is set to; 0 for no penalty.
        across, reduction: of ``FeatureFlow``; empty for no penalty.
        weight_decay, seed: of the training; the seed is that of the weights, too.
    """

    terms: str = "none"
    share: int = 0
    across: str = ""
    reduction: str = ""
    weight_decay: float = 5e-4
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its files, e.g. "both-005-project-mean-seed0"."""
        flow = "" if self.terms == "none" else f"-{self.share:03d}-{self.across}-{self.reduction}"
        decay = "" if self.weight_decay == 5e-4 else f"-decay{self.weight_decay:g}"
        return f"{self.terms}{flow}{decay}-seed{self.seed}"

    @property
    def flow(self) -> dict[str, Any] | None:
        """Keyword arguments for ``FeatureFlow``; None for no penalty."""
        if self.terms == "none":
            return None
        strengths = {
            term: f"{self.share}%" if self.terms in (term, "both") else None for term in ("gradient", "curvature")
        }
        return {**strengths, "across": self.across, "reduction": self.reduction}


NONE = Cell()
DEFAULT = Cell("both", GRID_SHARE, "project", "mean")
"""What ``FeatureFlow(model, "5%", "5%")`` does to this network, whose shortcuts it follows where the shape changes."""
WINNER = Cell("both", GRID_SHARE, "skip", "sum")
"""Whose five shares are run: in it most filters of the grid's cells die, and of those with both terms it is the most accurate."""


def grid() -> list[Cell]:
    """{none, gradient, curvature, both} x {skip, project} x {mean, channel, sum}; without a penalty there is one cell."""
    cells = [Cell(t, GRID_SHARE, a, r) for t in ("both", "gradient", "curvature") for a in ACROSS for r in REDUCTIONS]
    return [NONE, *cells]


def shares() -> list[Cell]:
    """The winner and the default at five shares."""
    return [replace(cell, share=share) for cell in (WINNER, DEFAULT) for share in SHARES]


def seeds() -> list[Cell]:
    """The default and no penalty, three seeds each."""
    return [replace(cell, seed=seed) for seed in range(3) for cell in (NONE, DEFAULT)]


def beside() -> list[Cell]:
    """Reductions at a share where filters die, and the question whether weight decay is what kills them."""
    strong, strongest = replace(DEFAULT, share=20), replace(DEFAULT, share=50)
    return [
        replace(strong, reduction="channel"),
        replace(strong, reduction="sum"),
        replace(NONE, weight_decay=0.0),
        replace(strong, weight_decay=0.0),
        replace(NONE, weight_decay=5e-3),
        replace(strongest, weight_decay=5e-3),
    ]


def cells() -> list[Cell]:
    """Every cell once, the most telling first: an ablation cut short then still answers something."""
    first = [NONE, DEFAULT]
    first += [replace(DEFAULT, terms=terms) for terms in ("gradient", "curvature")]
    first += [replace(DEFAULT, across="skip"), replace(NONE, seed=1), replace(DEFAULT, seed=1)]
    first += [replace(DEFAULT, reduction=reduction) for reduction in ("sum", "channel")]
    return list(dict.fromkeys([*first, *seeds(), *shares(), *grid(), *beside()]))


@dataclass(frozen=True)
class Setting:
    """What all cells have in common; ``subset`` None takes all training images."""

    network: str = "resnet20"
    options: tuple[tuple[str, Any], ...] = ()
    data: str = "cifar10"
    subset: int | None = 10_000
    epochs: int = 10

    def training(self, cell: Cell) -> TrainingSettings:
        """How a cell is trained."""
        return TrainingSettings(
            epochs=self.epochs,
            weight_decay=cell.weight_decay,
            precision="float32",
            seed=cell.seed,
            evaluate_every=self.epochs,
        )

    def described(self) -> dict[str, Any]:
        """As the results say it."""
        return {**asdict(self), "options": dict(self.options)}


SHORT, FULL = Setting(), Setting(subset=None, epochs=200)


@dataclass(frozen=True)
class Ablation:
    """Cells carried out in one setting: results into ``out``, weights and checkpoints into ``work``."""

    setting: Setting
    data: Data
    out: Path
    work: Path

    def result(self, cell: Cell) -> Path:
        """The cell's result file."""
        return self.out / f"{cell.name}.json"

    def state(self, cell: Cell) -> str:
        """See ``state``."""
        return state(cell, self.out, self.work)

    def carried_out(self, cell: Cell, *, again: bool = False) -> dict[str, Any]:
        """The cell's record, trained and measured now as far as it was not before.

        Args:
            cell: which.
            again: measure anew, from the kept weights.
        """
        file = self.result(cell)
        if file.exists() and not again:
            known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if known["setting"] != self.setting.described():
                raise SystemExit(f"{file} is of another setting; give another --out")
            return known
        model, trained = self._trained(cell)
        began = time.process_time()
        record = {
            "cell": cell.name,
            "command": f"python benchmarks/ablation/run.py --only {cell.name}",
            "setting": self.setting.described(),
            **asdict(cell),
            "flow": cell.flow,
            "training": self.setting.training(cell).model_dump(mode="json"),
            **trained,
            "network": network(model, self.data),
            "removal": removal(model, self.data, trained["top1"]),
            "measuring_cpu_seconds": round(time.process_time() - began, 1),
        }
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(record, indent=1, allow_nan=False) + "\n")
        return record

    def _trained(self, cell: Cell) -> tuple[nn.Module, dict[str, Any]]:
        folder = self.work / cell.name
        torch.manual_seed(cell.seed)
        model = models.create(self.setting.network, **dict(self.setting.options))
        known = folder / TRAINED
        if known.exists():
            model.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
            trained: dict[str, Any] = json.loads(known.read_text(encoding="utf-8"))
            return model, trained
        flow = FeatureFlow(model, **cell.flow) if cell.flow is not None else None
        began = time.process_time()
        result = train(
            model,
            self.data,
            self.setting.training(cell),
            run_folder=folder,
            regularizer=flow,
            resume=True,
            title=cell.name,
        )
        trained = {
            "top1": result.top1,
            "coefficients": None if flow is None else flow.coefficients,
            "history": result.history,
            "environment": environment(),
            "cpu_seconds_of_last_start": round(time.process_time() - began, 1),
        }
        if flow is not None:
            flow.close()
        model.cpu()
        torch.save(model.state_dict(), folder / WEIGHTS)
        write_text(known, json.dumps(trained, indent=1))
        return model, trained


def state(cell: Cell, out: Path, work: Path) -> str:
    """ "done", "trained" (but not measured), or "not run"."""
    if (out / f"{cell.name}.json").exists():
        return "done"
    return "trained" if (work / cell.name / TRAINED).exists() else "not run"


def network(model: nn.Module, data: Data) -> dict[str, Any]:
    """Sparsity, dead and silent filters and the flow of a trained network, the flow over 1000 test images."""
    example = data.example_input()
    with FeatureFlow(model, inputs=example) as flow:
        profile = flow.profile(data.batches("test", batch_size=250, count=4))
    return {
        **measured(model, example),
        "silent_channels": profile.silent,
        "flow_gradient": profile.gradient,
        "flow_curvature": profile.curvature,
        "flow_relative": [point.relative for point in profile.points],
        "points": [point.name for point in profile.points],
    }


def removal(model: nn.Module, data: Data, before: float) -> list[dict[str, Any]]:
    """What leaves physically, and the accuracy then, without fine-tuning, at every threshold, with and without branches.

    Args:
        model: trained.
        data: whose test images are used.
        before: its top-1, which stands where nothing leaves.
    """
    example = data.example_input()
    return [
        removed(model, data, example, before, threshold, branches) for threshold in THRESHOLDS for branches in BRANCHES
    ]


def removed(
    model: nn.Module, data: Data, example: torch.Tensor, before: float, threshold: float, branches: bool | str
) -> dict[str, Any]:
    """One real removal."""
    made = plan(model, example, threshold=threshold, branches=branches)
    kinds = [branch.kind for branch in made.branches]
    return {
        "threshold": threshold,
        "branches": branches,
        "macs": list(made.macs),
        "params": list(made.params),
        "filters_removed": made.filters_removed,
        "kept_alive": sum(made.kept_alive.values()),
        "branch_changes": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "branches_left": dict(made.branches_left),
        "top1": before if made.is_empty else evaluate(prune(model, made), data).top1,
    }


def chosen(patterns: list[str]) -> Iterator[Cell]:
    """The cells whose names match one of the patterns; all without any."""
    for cell in cells():
        if not patterns or any(fnmatch(cell.name, pattern) for pattern in patterns):
            yield cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help="name of a cell; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="show every cell and how far it is")
    parser.add_argument("--measure", action="store_true", help="measure trained cells anew, train none")
    parser.add_argument("--full", action="store_true", help="200 epochs on all images, into results/ablation-full")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--work", type=Path, default=None, help="weights and checkpoints; not committed")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    setting, name = (FULL, "ablation-full") if given.full else (SHORT, "ablation")
    out, work = given.out or Path("results") / name, given.work or Path("runs") / name
    if given.list:
        for cell in chosen(given.only):
            print(f"{state(cell, out, work):8} {cell.name}")
        return
    data = load_data(setting.data, data_dir=given.data_dir, subset=setting.subset, seed=0)
    ablation = Ablation(setting, data, out, work)
    for cell in chosen(given.only):
        kept = (ablation.work / cell.name / TRAINED).exists()
        if (given.measure and not kept) or (not given.measure and ablation.result(cell).exists()):
            continue
        record = ablation.carried_out(cell, again=given.measure)
        dead = record["network"]["dead_by_threshold"]
        print(f"{cell.name}: top-1 {record['top1']:.2f}, dead {dead['0.01']}, below 0.1 {dead['0.1']}", flush=True)


if __name__ == "__main__":
    main()
