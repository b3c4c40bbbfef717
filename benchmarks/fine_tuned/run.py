"""Criteria after a short fine-tune: the pretrained ResNets on CIFAR-10 at 40 % fewer MACs, beside chance and the controls.

    python benchmarks/fine_tuned/run.py resnet20 [--seeds 0 1 2] [--data-dir DIR]

Each seed is a ``flowprune compare`` of recipes/compare-NETWORK-cifar10-short.yaml in a folder of its own, so that seeds can run
side by side; an interrupted one goes on. The cells' results are copied to results/fine-tuned/.
``pages.py fine_tuned`` makes the tables of docs/comparison.md.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from flowprune.artifacts.atomic_write import write_text
from flowprune.studies.comparison import compare
from flowprune.studies.comparison.comparison_recipe import load_comparison_recipe

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ("resnet20", "resnet56")


def recipe_of(network: str) -> Path:
    """The comparison's recipe; its seeds are chosen one by one."""
    return ROOT / "recipes" / f"compare-{network}-cifar10-short.yaml"


def copied(work: Path, network: str, out: Path) -> None:
    """Put the results that are there into ``out``, one file a cell."""
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted((work / "results").glob("*.json")):
        write_text(out / f"{network}-{file.name}", file.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "fine-tuned", help="models and checkpoints, not committed"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "fine-tuned")
    given = parser.parse_args()
    for seed in given.seeds:
        recipe = load_comparison_recipe(recipe_of(given.network), [f"seeds=[{seed}]"])
        work = given.work / f"{given.network}-seed{seed}"
        try:
            compare(recipe, work, data_dir=given.data_dir, resume=True, progress=False, say=partial(print, flush=True))
        finally:  # an interrupted comparison has whole cells, too
            copied(work, given.network, given.out)


if __name__ == "__main__":
    main()
