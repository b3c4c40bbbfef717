"""What FFR does to ResNet-20 on CIFAR-10 in a short schedule: strength, reduction and weight decay, one JSON a run.

    python benchmarks/flow_sweep.py --out results/flow-sweep [--data-dir DIR] [--epochs 10] [--subset 10000] [--only NAME]

Each run trains from the same seed. Runs that already have a result are left out, so the sweep can be interrupted and goes on;
within a run the training resumes from its last epoch.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import flowprune.models as models
from flowprune.flow import FeatureFlow
from flowprune.measuring import dead_filters, sparsity
from flowprune.pruning import plan, prune
from flowprune.training import TrainingSettings, evaluate, load_data, train


def runs() -> dict[str, dict[str, Any]]:
    """Name -> options of FeatureFlow (None: plain) and weight decay."""
    found: dict[str, dict[str, Any]] = {"plain": {"flow": None}, "plain-decay0": {"flow": None, "weight_decay": 0.0}}
    for share in ("20%", "50%", "5%", "2%", "10%"):
        name = share.rstrip("%").rjust(3, "0")
        found[f"share{name}-mean"] = {"flow": {"gradient": share, "curvature": share, "reduction": "mean"}}
    for reduction in ("channel", "sum"):
        found[f"share020-{reduction}"] = {"flow": {"gradient": "20%", "curvature": "20%", "reduction": reduction}}
    found["share020-mean-decay0"] = {
        "flow": {"gradient": "20%", "curvature": "20%", "reduction": "mean"},
        "weight_decay": 0.0,
    }
    found["plain-decay5e-3"] = {"flow": None, "weight_decay": 5e-3}
    found["share050-mean-decay5e-3"] = {
        "flow": {"gradient": "50%", "curvature": "50%", "reduction": "mean"},
        "weight_decay": 5e-3,
    }
    return found


def measure(model: torch.nn.Module, data: Any) -> dict[str, Any]:
    """Everything the sweep is about, of a trained network."""
    example = data.example_input(1)
    dead = dead_filters(model, example)
    flow = FeatureFlow(model, inputs=example)
    profile = flow.profile(list(data.batches("test", batch_size=250, count=4)))
    flow.close()
    cut = plan(model, example, threshold=1e-2)
    small = prune(model, cut)
    return {
        "filters": dead.filters,
        "dead_filters": {f"{threshold:g}": count for threshold, count in dead.by_threshold.items()},
        "dead_branch_ends": dead.dead_branch_ends,
        "sparsity": asdict(sparsity(model, example)),
        "silent_channels": profile.silent,
        "flow_gradient": profile.gradient,
        "flow_curvature": profile.curvature,
        "flow_relative": [point.relative for point in profile.points],
        "flow_points": [asdict(point) for point in profile.points],
        "threshold_cut": {
            "filters_removed": cut.filters_removed,
            "macs": list(cut.macs),
            "params": list(cut.params),
            "top1": evaluate(small, data).top1,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/flow-sweep"))
    parser.add_argument(
        "--work", type=Path, default=Path("runs/flow-sweep"), help="checkpoints and weights; not committed"
    )
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--subset", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = load_data("cifar10", data_dir=arguments.data_dir, subset=arguments.subset, seed=0)
    for name, options in runs().items():
        target = arguments.out / f"{name}-seed{arguments.seed}.json"
        if target.exists() or arguments.only not in name:
            continue
        torch.manual_seed(arguments.seed)
        model = models.create("resnet20")
        decay = options.get("weight_decay", 5e-4)
        settings = TrainingSettings(
            epochs=arguments.epochs, weight_decay=decay, seed=arguments.seed, evaluate_every=arguments.epochs
        )
        flow = FeatureFlow(model, **options["flow"]) if options["flow"] else None
        folder = arguments.work / target.stem
        result = train(model, data, settings, run_folder=folder, regularizer=flow, resume=True, title=name)
        coefficients = dict(flow.state_dict().items()) if flow else None
        if flow is not None:
            flow.close()
        torch.save(model.state_dict(), folder / "weights.pt")
        record = {
            "name": name,
            "network": "resnet20",
            "data": "cifar10",
            "seed": arguments.seed,
            "subset": arguments.subset,
            "training": settings.model_dump(mode="json"),
            "flow": options["flow"],
            "coefficients": json.loads(json.dumps(coefficients, default=str)),
            "top1": result.top1,
            "history": result.history,
            **measure(model, data),
            "versions": {"torch": torch.__version__},
        }
        target.write_text(json.dumps(record, indent=1) + "\n")
        print(
            f"{name}: top-1 {result.top1:.2f}, dead {record['dead_filters']}, silent {record['silent_channels']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
