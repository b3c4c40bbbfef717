"""The commands of the command line, one file each, in the groups that its help shows."""

from __future__ import annotations

from collections.abc import Callable

from flowprune.commands.bench import bench
from flowprune.commands.compare import compare
from flowprune.commands.evaluate import evaluate
from flowprune.commands.explain import explain
from flowprune.commands.export import export
from flowprune.commands.finetune import finetune
from flowprune.commands.flow import flow
from flowprune.commands.measure import measure
from flowprune.commands.methods import methods
from flowprune.commands.predict import predict
from flowprune.commands.prune import prune
from flowprune.commands.report import report
from flowprune.commands.run import run
from flowprune.commands.sensitivity import sensitivity
from flowprune.commands.toy import toy

GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Make a model smaller": (run, prune, finetune),
    "Look at a model": (evaluate, measure, bench, explain, sensitivity, flow),
    "Hand it over": (predict, export, report),
    "Compare methods": (compare, methods, toy),
}

EXAMPLES: dict[Callable[..., None], tuple[str, ...]] = {
    run: (
        "flowprune run --out runs/demo",
        "flowprune run recipe.yaml --set training.epochs=5 --data-dir DATA",
    ),
    prune: (
        "flowprune prune torchvision:resnet50 --macs 50% --out small.fp",
        "flowprune prune dense.fp --latency 4ms --importance nuclear_norm --out small.fp",
    ),
    finetune: ("flowprune finetune small.fp --epochs 40 --data-dir DATA --out tuned.fp",),
    evaluate: ("flowprune evaluate tuned.fp --data-dir DATA",),
    bench: ("flowprune bench dense.fp small.fp --backend onnxruntime --batch-size 1 --batch-size 32 --layers 5",),
    measure: ("flowprune measure torchvision:resnet50 --json",),
    explain: ("flowprune explain timm:vit_tiny_patch16_224",),
    sensitivity: ("flowprune sensitivity dense.fp --drop 1 --data-dir DATA",),
    flow: ("flowprune flow plain.fp --against ffr.fp --data-dir DATA --out flow.html",),
    export: ("flowprune export tuned.fp --out tuned.onnx",),
    predict: (
        "flowprune predict tuned.fp cat.jpg dog.webp",
        "flowprune predict tuned.onnx pictures --top 1 --json",
    ),
    report: ("flowprune report runs/demo --markdown",),
    compare: ("flowprune compare recipes/compare-digits.yaml --out runs/compared",),
    methods: ("flowprune methods",),
    toy: ("flowprune toy --seeds 1 --samples 5 --width 64 --out toy.html",),
}
"""What stands below a command's help: it works as printed where the files are there."""

__all__ = ["EXAMPLES", "GROUPS"]
