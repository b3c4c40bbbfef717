"""Compare the pruned models of the zoo with their silenced twins, in float64; each in a process of its own, with a time limit.

    python benchmarks/zoo_twins.py [--list zoo|others] [--only PATTERN] [--limit SECONDS] [--out FILE] [--again]

Per model of ``benchmarks/zoo.txt``, or of ``benchmarks/zoo_others.txt``: parameters near zero (layer scales, position tables,
heads) and the norms' statistics are randomised, so that nothing can hide behind them; half of the channels of every group leave,
drawn at random; then the pruned model's outputs are compared with those of ``tests/silenced_twin.py``, and the twin's with the
dense model's. Models in the output file are left out, but for errors, so a run can be interrupted and goes on.
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
LISTS = {"zoo": ("zoo.txt", "twins.json"), "others": ("zoo_others.txt", "twins-others.json")}
"""Where the models of a list are named, and where what was found of them is kept."""
LARGEST_DIFFERENCE = 1e-10
"""Of the outputs' scale."""


def compare(line: str) -> dict[str, Any]:
    """One model, in this process."""
    sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
    import torch
    from silenced_twin import randomized, silenced_twin
    from zoo.subjects import Subject, tensors_in

    import flowprune as fp

    torch.set_num_threads(1)
    subject = Subject.of_line(line)
    model = randomized(subject.build()).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and float(parameter.abs().max()) < 1e-2:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    inputs = doubled(subject.inputs())
    made = fp.plan(model, inputs, importance=fp.importance.Random(seed=1), channels=0.5)
    record: dict[str, Any] = {"params_kept": made.params[1] / made.params[0], "empty": made.is_empty}
    outputs = []
    for network in (model, silenced_twin(model, made), fp.prune(model, made).eval()):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(
                [output for output in tensors_in(predictions(network, inputs)) if output.is_floating_point()]
            )
    dense, twin, small = outputs
    scale = max(float(output.abs().max()) for output in twin if output.numel())
    same_shapes = [output.shape for output in twin] == [output.shape for output in small]
    record["outputs"] = sum(output.numel() for output in twin)
    record["scale"] = scale
    record["difference"] = furthest(twin, small) / scale if same_shapes else None
    # how many boxes a detector finds may depend on what is removed
    alike = [output.shape for output in twin] == [output.shape for output in dense]
    record["from_dense"] = furthest(twin, dense) / scale if alike else None
    return record


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
    if record["empty"]:
        return "nothing removed"
    if record["difference"] is not None and record["difference"] <= LARGEST_DIFFERENCE:
        return (
            "equal" if record["from_dense"] is None or record["from_dense"] > 1e-6 else "equal to the dense model, too"
        )
    return "differs"


def one(line: str, limit: float) -> dict[str, Any]:
    """One model, in a process of its own."""
    name, size = line.split()[:2]
    record: dict[str, Any] = {"name": name, "size": int(size)}
    command = [sys.executable, "-W", "ignore", __file__, "--one", line]
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
    parser.add_argument("--only", default="*")
    parser.add_argument("--limit", type=float, default=600.0)
    parser.add_argument("--out", type=Path, help="another file than the list's own in results/zoo")
    parser.add_argument("--again", action="store_true", help="compare what is in the output file, too")
    parser.add_argument("--one", metavar="LINE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print("RECORD " + json.dumps(compare(arguments.one)))
        return
    listed, kept = LISTS[arguments.list]
    out = arguments.out or HERE.parent / "results" / "zoo" / kept
    text = (HERE / listed).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    records: dict[str, Any] = {}
    if out.exists():
        records = {entry["name"]: entry for entry in json.loads(out.read_text(encoding="utf-8"))["models"]}
    for line in lines:
        name = line.split()[0]
        done = name in records and records[name]["verdict"] != "error" and not arguments.again
        if done or not fnmatch.fnmatchcase(name, arguments.only):
            continue
        records[name] = record = one(line, arguments.limit)
        print(f"{record['verdict']}: {name} {record.get('error', record.get('difference'))}", flush=True)
        ordered = [records[entry.split()[0]] for entry in lines if entry.split()[0] in records]
        counts: dict[str, int] = {}
        for entry in ordered:
            counts[entry["verdict"]] = counts.get(entry["verdict"], 0) + 1
        content = {
            "command": "python benchmarks/zoo_twins.py"
            + (f" --list {arguments.list}" if arguments.list != "zoo" else ""),
            "tolerance": LARGEST_DIFFERENCE,
            "verdicts": counts,
            "models": ordered,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
