"""The commands of the command line, one file each, in the groups that its help shows."""

from __future__ import annotations

from collections.abc import Callable

from flowprune.commands.bench import bench
from flowprune.commands.compare import compare
from flowprune.commands.compress import compress
from flowprune.commands.evaluate import evaluate
from flowprune.commands.explain import explain
from flowprune.commands.export import export
from flowprune.commands.finetune import finetune
from flowprune.commands.flow import flow
from flowprune.commands.mask import mask
from flowprune.commands.measure import measure
from flowprune.commands.methods import methods
from flowprune.commands.predict import predict
from flowprune.commands.prune import prune
from flowprune.commands.quantize import quantize
from flowprune.commands.replace import replace
from flowprune.commands.report import report
from flowprune.commands.run import run
from flowprune.commands.sensitivity import sensitivity
from flowprune.commands.toy import toy

GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Make a model smaller": (run, compress, prune, mask, replace, quantize, finetune),
    "Look at a model": (evaluate, measure, bench, explain, sensitivity, flow),
    "Hand it over": (predict, export, report),
    "Compare methods": (compare, methods, toy),
}

EXAMPLES: dict[Callable[..., None], tuple[str, ...]] = {
    run: (
        "flowprune run --out runs/demo",
        "flowprune run recipe.yaml --set training.epochs=5 --data-dir DATA",
    ),
    compress: (
        "flowprune compress dense.fp --data flowers --macs 0.5 --out runs/smaller",
        "flowprune compress dense.fp --data-dir DATA --max-drop 0.5 --hours 2",
    ),
    prune: (
        "flowprune prune torchvision:resnet50 --macs 50% --out small.fp",
        "flowprune prune dense.fp --latency 4ms --importance nuclear_norm --out small.fp",
    ),
    mask: (
        "flowprune mask dense.fp --keep 20% --allocator lamp --out sparse.fp",
        "flowprune mask resnet56 --mask predefined_sparsity --mask-option taps=4 --out sparse.fp",
    ),
    replace: (
        "flowprune replace small.fp --replacement-option expansion=4 --out wide.fp",
        "flowprune replace tuned.fp --restore --out small.fp",
    ),
    quantize: ("flowprune quantize sparse.fp --codec sparse_huffman --bytes 10% --out packed.fp",),
    finetune: (
        "flowprune finetune small.fp --epochs 40 --data-dir DATA --out tuned.fp",
        "flowprune finetune small.fp --teacher dense.fp --out tuned.fp",
    ),
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
