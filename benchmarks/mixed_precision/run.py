"""A ResNet-8 of mixed precision on digits, from training to ONNX: results/mixed-precision/seedN.json.

    python benchmarks/mixed_precision/run.py [--seed 0] [--work runs/presets] [--out results/mixed-precision]

Runs the short form of the preset ``mixed_precision`` (an interrupted run goes on where it stopped), counts every byte of its
artifact by what it is for, exports the network, and compares ONNX Runtime's logits with its own on all test images. ``pages.py
mixed_precision`` makes docs/mixed-precision.md of it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

import flowprune as fp
from flowprune.artifacts.atomic_write import write_text
from flowprune.artifacts.onnx_session import OnnxModel
from flowprune.methods.codecs.stored_model import stored_model
from flowprune.methods.quantizers._channelwise.pact import step_of
from flowprune.studies.pipeline.run import run
from flowprune.studies.recipe import load_recipe

NAME = "mixed_precision"


def bytes_by_part(model: nn.Module, artifact: Path) -> dict[str, int | float]:
    """What the artifact's bytes are for; the levels of the weights to the bit, and what fills their last bytes up."""
    stored, found = stored_model(model), Counter[str]()
    for name, entry in stored.coded.items():
        levels = sum(entry["header"]["bits"]) * model.get_parameter(name)[0].numel() / 8
        found["levels of the weights"] += levels
        found["filling of last bytes"] += stored.tensors[f"code:levels:{name}"].nbytes - levels
    kinds = {"code:scales": "scales", "bias": "biases", "clip": "clips"}
    for name, tensor in stored.tensors.items():
        if not name.startswith("code:levels:"):
            kind = next((kind for key, kind in kinds.items() if key in (name.rpartition(".")[2], name[:11])), "others")
            found[kind] += tensor.nbytes
    found["header"] = artifact.stat().st_size - stored.size
    return dict(found)


def compared(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, file: Path) -> dict[str, Any]:
    """ONNX Runtime beside the network on grids.

    A quantum of a logit is the least by which whole numbers can change it: the scale of its filter times a level of what the last
    layer reads.
    """
    written = fp.export(model, images[:2], file)
    with torch.no_grad():
        ours = model(images)
    theirs = OnnxModel(file)(images)
    level = step_of(model.get_parameter("linear.clip").detach(), model.get_submodule("linear").grid.bits)
    quanta = stored_model(model).tensors["code:scales:linear.weight"] * level
    difference = (ours - theirs).abs()
    return {
        "images": len(images),
        "within one quantum": float((difference <= quanta).all(1).float().mean()),
        "largest difference in quanta": float((difference / quanta).max()),
        "largest difference": float(difference.max()),
        "largest logit": float(ours.abs().max()),
        "quantum of each logit": quanta.tolist(),
        "equal decisions": float((ours.argmax(1) == theirs.argmax(1)).float().mean()),
        "top-1 here": float((ours.argmax(1) == labels).float().mean()),
        "top-1 of ONNX Runtime": float((theirs.argmax(1) == labels).float().mean()),
        "ONNX bytes": written.path.stat().st_size,
    }


def measured(seed: int, work: Path) -> dict[str, Any]:
    """The whole way, and what came of it."""
    recipe = load_recipe(None, [f"training.seed={seed}"], method=NAME)
    phases = [
        phase.model_copy(update={"training": phase.training.model_copy(update={"seed": seed})})
        if getattr(phase, "training", None) is not None
        else phase
        for phase in recipe.phases_of(NAME)
    ]
    recipe = recipe.model_copy(update={"phases": {NAME: phases}})
    folder = work / f"{NAME}-seed{seed}"
    results = run(recipe, folder, resume=True, progress=False, say=print)
    artifact = folder / "models" / f"resnet8-{NAME}-quantized.fp"
    model = fp.load(artifact).eval()
    data = fp.load_data(**recipe.data.model_dump(), seed=seed)
    batches = list(data.batches("test", batch_size=len(data.test), count=1))
    search = next(own for name, own in results["histories"].items() if "size_bits" in own[-1])
    bits: Counter[int] = Counter(
        width for entry in stored_model(model).coded.values() for width in entry["header"]["bits"]
    )
    return {
        "seed": seed,
        "environment": results["environment"],
        "rows": results["rows"],
        "size in bits that the search reported": int(search[-1]["size_bits"]),
        "filters by bits": dict(sorted(bits.items())),
        "bytes": bytes_by_part(model, artifact),
        "ONNX Runtime": compared(model, *batches[0], folder / "quantized.onnx"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/presets"), help="not committed")
    parser.add_argument("--out", type=Path, default=Path("results/mixed-precision"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    found = measured(asked.seed, asked.work)
    write_text(asked.out / f"seed{asked.seed}.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
