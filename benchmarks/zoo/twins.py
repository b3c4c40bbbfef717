"""Compare the pruned models of the zoo with their silenced twins, in float64; each in a process of its own, with a time limit.

    python benchmarks/zoo/twins.py [--list zoo|others] [--budget channels|threshold] [--only PATTERN] [--limit SECONDS]
                                   [--out FILE] [--again]

Per model of ``benchmarks/zoo/zoo.txt``, or of ``benchmarks/zoo/others.txt``: parameters near zero (layer scales, position tables,
heads) and the norms' statistics are randomised, so that nothing can hide behind them; half of the channels of every group leave,
drawn at random; then the pruned model's outputs are compared with those of ``tests/networks/silenced_twin.py``, and the twin's
with the dense model's. Models in the output file are left out, but for errors and differences: an interrupted run goes on.

With ``--budget threshold`` a tenth of the filters in front of every batch norm are made constant (gamma zero, beta not), and leave
by ``threshold=0.01, fold_tolerance=0``; the reference is the dense model itself, on the example inputs and on others. In a network
without batch norms the weights of a tenth of the filters of every convolution and linear layer are made zero instead, their biases
kept. A model that differs further is asked how far it is from itself when its weights change in their last digits.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LISTS = {"zoo": "zoo.txt", "others": "others.txt"}
"""Where the models of a list are named."""
KEPT = {"channels": "twins", "threshold": "threshold"}
"""What the files are called where it is kept what was found under a budget."""
CONSTANT = 0.1
"""Share of the filters in front of batch norms that are made constant; without norms, of all filters."""
LARGEST_DIFFERENCE = 1e-10
"""Of the outputs' scale."""
LARGEST_OWN_ROUNDING = 1e-8
"""A model whose own last digits move its outputs further than the above is held to that, but to no more than this."""


def compare(line: str, budget: str) -> dict[str, Any]:
    """One model, in this process."""
    sys.path[:1] = [
        str(HERE.parent),
        str(HERE.parents[1] / "tests" / "networks"),
    ]  # not this folder: it has a flowprune.py
    import torch

    from zoo.subjects import Subject

    torch.set_num_threads(1)
    subject = Subject.of_line(line)
    model = awake(subject)
    return with_twin(subject, model) if budget == "channels" else with_dense(subject, model)


def awake(subject: Any) -> Any:
    """The model in float64 and evaluation mode, nothing in it near zero."""
    import torch
    from silenced_twin import randomized

    model = randomized(subject.build()).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and float(parameter.abs().max()) < 1e-2:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


def with_twin(subject: Any, model: Any) -> dict[str, Any]:
    """Half of the channels leave; the reference is the silenced twin."""
    from silenced_twin import silenced_twin

    import flowprune as fp

    inputs = doubled(subject.inputs())
    made = fp.plan(model, inputs, importance=fp.importance.Random(seed=1), channels=0.5)
    record: dict[str, Any] = {"params_kept": made.params[1] / made.params[0], "empty": made.is_empty}
    networks = (model, silenced_twin(model, made), fp.prune(model, made).eval())
    dense, twin, small = (outputs_of(network, inputs) for network in networks)
    record["outputs"] = sum(output.numel() for output in twin)
    record["scale"] = scale_of(twin)
    record["difference"] = furthest(twin, small) / scale_of(twin) if alike(twin, small) else None
    # how many boxes a detector finds may depend on what is removed
    record["from_dense"] = furthest(twin, dense) / scale_of(twin) if alike(twin, dense) else None
    return record


def with_dense(subject: Any, model: Any) -> dict[str, Any]:
    """What is dead and constant leaves; the reference is the dense model, on the example inputs and on others."""
    import torch
    from constant_filters import with_constant_filters, without_weights

    import flowprune as fp

    torch.manual_seed(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with_constant_filters(model, CONSTANT, together=0.9, without_weights=0.0)
    norms = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    constant = sum(int((model.get_parameter(name) == 0).sum()) for name in norms if name.endswith("weight"))
    record: dict[str, Any] = {"batch_norms": len(norms) // 2, "constant_filters": constant}
    if not norms:
        record["constant_filters"] = without_weights(model, CONSTANT)
    inputs = doubled(subject.inputs())
    made = fp.plan(model, inputs, threshold=0.01, fold_tolerance=0)
    small = fp.prune(model, made).eval()
    record["empty"] = made.is_empty
    record["filters_removed"] = made.filters_removed
    record["constants_folded"] = sum(fold.channels for fold in made.folds)
    record["kept_alive"] = sum(made.kept_alive.values())
    record["scales"], record["differences"] = [], []
    for given in (inputs, others(inputs, subject.detects)):
        dense, output = outputs_of(model, given), outputs_of(small, given)
        record["scales"].append(scale_of(dense))
        record["differences"].append(furthest(dense, output) / scale_of(dense) if alike(dense, output) else None)
    known = [difference for difference in record["differences"] if difference is not None]
    record["difference"] = max(known) if len(known) == len(record["differences"]) else None
    if record["difference"] is not None and record["difference"] > LARGEST_DIFFERENCE:
        record["own_rounding"] = own_rounding(model, inputs)
    return record


def own_rounding(model: Any, inputs: Any) -> float:
    """How far the dense model is from itself, of the outputs' scale, when its weights change in their last digits: changes it."""
    import torch

    before = outputs_of(model, inputs)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + torch.finfo(torch.float64).eps / 2 * torch.randn_like(parameter))
    return furthest(before, outputs_of(model, inputs)) / scale_of(before)


def outputs_of(network: Any, inputs: Any) -> list[Any]:
    """Every float tensor that the network returns."""
    import torch

    from zoo.subjects import tensors_in

    torch.manual_seed(0)
    with torch.no_grad():
        return [output for output in tensors_in(predictions(network, inputs)) if output.is_floating_point()]


def scale_of(outputs: list[Any]) -> float:
    """The largest of all."""
    return max(float(output.abs().max()) for output in outputs if output.numel())


def alike(left: list[Any], right: list[Any]) -> bool:
    """Whether all have the same shapes."""
    return [output.shape for output in left] == [output.shape for output in right]


def others(inputs: Any, detects: bool) -> Any:
    """Inputs of the same shapes with other values between the same limits; where boxes are to be found, of the images only."""
    import torch
    from torch.utils._pytree import tree_map_only

    def drawn(tensor: Any) -> Any:
        low, high = tensor.min(), tensor.max()
        if tensor.is_floating_point():
            return low + torch.rand_like(tensor) * (high - low)
        if tensor.dtype == torch.bool:
            return torch.rand(tensor.shape) < 0.5
        return torch.randint(int(low), int(high) + 1, tensor.shape, dtype=tensor.dtype)

    torch.manual_seed(3)
    if detects:
        return (tree_map_only(torch.Tensor, drawn, inputs[0]), *inputs[1:])
    return tree_map_only(torch.Tensor, drawn, inputs)


def predictions(network: Any, inputs: Any) -> Any:
    """The outputs; of a detector what its head makes: the list of boxes is sorted by scores that differ in the last digit only."""
    if not (hasattr(network, "backbone") and hasattr(network, "transform")):
        return network(*inputs)
    images, _ = network.transform(inputs[0])
    return network.head(list(network.backbone(images.tensors).values()))


def doubled(value: Any) -> Any:
    """Inputs in float64."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: doubled(entry) for key, entry in value.items()}
    return type(value)(doubled(entry) for entry in value)


def furthest(left: list[Any], right: list[Any]) -> float:
    """The largest difference of tensors of the same shapes."""
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True) if a.numel())


def verdict(record: dict[str, Any]) -> str:
    """In a word."""
    if "error" in record:
        return "error"
    if record.get("batch_norms") == 0 and not record["constant_filters"]:
        return "no filters"
    if record["empty"]:
        return "nothing removed"
    own = min(record.get("own_rounding", 0.0), LARGEST_OWN_ROUNDING)
    if record["difference"] is None or not record["difference"] <= max(LARGEST_DIFFERENCE, own):
        return "differs"
    from_dense = record.get("from_dense")
    return "equal" if from_dense is None or from_dense > 1e-6 else "equal to the dense model, too"


def one(line: str, budget: str, limit: float) -> dict[str, Any]:
    """One model, in a process of its own."""
    name, size = line.split()[:2]
    record: dict[str, Any] = {"name": name, "size": int(size)}
    command = [sys.executable, "-W", "ignore", __file__, "--budget", budget, "--one", line]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        found = [text for text in done.stdout.splitlines() if text.startswith("RECORD ")]
        error = (done.stderr.strip().splitlines() or ["no output"])[-1]
        record |= json.loads(found[-1][7:]) if found else {"error": error[:300]}
    except subprocess.TimeoutExpired:
        record["error"] = f"over {limit:g} s"
    record["verdict"] = verdict(record)
    return record


def main() -> None:
    """Compare what is missing, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", default="zoo", choices=list(LISTS))
    parser.add_argument("--budget", default="channels", choices=list(KEPT))
    parser.add_argument("--only", default="*")
    parser.add_argument("--limit", type=float, default=600.0)
    parser.add_argument("--out", type=Path, help="another file than the list's own in results/zoo")
    parser.add_argument("--again", action="store_true", help="compare what is in the output file, too")
    parser.add_argument("--one", metavar="LINE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print("RECORD " + json.dumps(compare(arguments.one, arguments.budget)))
        return
    kept = KEPT[arguments.budget] + ("" if arguments.list == "zoo" else f"-{arguments.list}")
    out = arguments.out or HERE.parents[1] / "results" / "zoo" / f"{kept}.json"
    text = (HERE / LISTS[arguments.list]).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    records: dict[str, Any] = {}
    if out.exists():
        records = {entry["name"]: entry for entry in json.loads(out.read_text(encoding="utf-8"))["models"]}
    for line in lines:
        name = line.split()[0]
        unfinished = ("error", "differs", "no batch norm")  # the last is of a survey that did not ask these
        done = name in records and records[name]["verdict"] not in unfinished and not arguments.again
        if done or not fnmatch.fnmatchcase(name, arguments.only):
            continue
        records[name] = record = one(line, arguments.budget, arguments.limit)
        print(f"{record['verdict']}: {name} {record.get('error', record.get('difference'))}", flush=True)
        ordered = [records[entry.split()[0]] for entry in lines if entry.split()[0] in records]
        counts: dict[str, int] = {}
        for entry in ordered:
            counts[entry["verdict"]] = counts.get(entry["verdict"], 0) + 1
        content = {
            "command": "python benchmarks/zoo/twins.py"
            + (f" --list {arguments.list}" if arguments.list != "zoo" else "")
            + (f" --budget {arguments.budget}" if arguments.budget != "channels" else ""),
            "tolerance": LARGEST_DIFFERENCE,
            "verdicts": counts,
            "models": ordered,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
