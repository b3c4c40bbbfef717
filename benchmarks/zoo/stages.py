"""The three questions asked of a tool about one model: does it work, how long does it take, does it export."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from zoo import flowprune as ours
from zoo.clock import measured
from zoo.phases import NAMES, watching
from zoo.prunable import prunable_share
from zoo.source import changed, fingerprint, unhandy
from zoo.subjects import Subject, TinyNetwork, output_sizes, shapes, tensors_in

TOOLS = {"flowprune": "zoo.flowprune", "torch-pruning": "zoo.torch_pruning", "torch-kirigami": "zoo.torch_kirigami"}
Emit = Callable[[dict[str, Any]], None]

# Every stage is called as stage(tool, subject, known, emit): ``known`` is the mode to try and what an earlier stage found out.


def adapter(tool: str) -> Any:
    """The module that calls a tool: ``PACKAGE``, ``MODES`` and ``prune``."""
    return importlib.import_module(TOOLS[tool])


def works(tool: str, subject: Subject, known: Mapping[str, Any], emit: Emit) -> None:
    """Prune once and check what comes out; whatever is wrong is raised."""
    inputs = subject.inputs()
    expected, classes = _dense_outputs(subject, inputs)
    model = subject.build().train(known["mode"] == "train")
    dense_parameters = _count(model)
    record: dict[str, Any] = {"mode": known["mode"], "classes": classes}
    if tool == "flowprune":
        before = fingerprint(unhandy(model))
        with watching() as watched:
            pruned = ours.prune(model, inputs, classes)
        record |= ours.details(pruned)
        record["prunable"] = prunable_share(watched.results["flowprune.engine.coupling.grouping:group_channels"], model)
        record["params_kept"] = _count(pruned.model) / dense_parameters
        emit(record | {"works": False, "error": "the checks did not end"})
        differences = changed(before, fingerprint(model))
        assert not differences, f"of the source, {', '.join(differences)} changed"
        certificate = "flowprune.engine.surgery.certificate:certify"
        assert not pruned.plan.is_empty, "the plan is empty"
        assert certificate in watched.results and watched.results[certificate] is None, "there is no certificate"
    else:
        pruned = adapter(tool).prune(model, inputs, classes)
        record["params_kept"] = _count(pruned.model) / dense_parameters
        emit(record | {"works": False, "error": "the checks did not end"})
    assert record["params_kept"] < 1, "nothing was removed"
    _check_training(pruned.model, inputs, expected)
    if tool == "flowprune":
        ours.check_saving(pruned.model, subject, inputs)
    emit(record | {"works": True})


def times(tool: str, subject: Subject, known: Mapping[str, Any], emit: Emit) -> None:
    """Prune once by the clock, after a tiny network that is not counted."""
    prune = adapter(tool).prune
    prune(TinyNetwork().train(known["mode"] == "train"), (torch.randn(2, 3, 8, 8),), [10])
    inputs, classes = subject.inputs(), known["classes"]
    model = subject.build().train(known["mode"] == "train")
    if tool != "flowprune":
        _, record = measured(lambda: prune(model, inputs, classes))
        emit(record)
        return
    with watching() as phases:
        _, record = measured(lambda: prune(model, inputs, classes))
    named = {name: phases.seconds[name] for name in NAMES}
    record["phases"] = named | {"other": record["seconds_wall"] - sum(named.values())}
    record["phases_missing"] = phases.missing
    emit(record)


def export(tool: str, subject: Subject, known: Mapping[str, Any], emit: Emit) -> None:
    """``torch.export`` of the dense model; where that works, of the pruned one."""
    inputs = subject.inputs()
    record: dict[str, Any] = {}
    for which in ("dense", "pruned"):
        model = subject.build()
        try:
            emit(record | {which: False, f"{which}_error": "it did not end"})
            ours.export(model if which == "dense" else ours.prune(model, inputs, ()).model, inputs)
            record[which] = True
        except Exception as error:  # whatever export raises is the answer
            record |= {
                which: False,
                f"{which}_error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:200],
            }
            break
    emit(record)


STAGES = {"works": works, "times": times, "export": export}


def _dense_outputs(subject: Subject, inputs: tuple[Any, ...]) -> tuple[dict[bool, Any], list[int]]:
    """The dense model's outputs by training mode, as shapes; and how many classes they have."""
    model = subject.build()
    expected = {}
    with torch.no_grad():
        for training in (True, False):
            outputs = model.train(training)(*inputs)
            expected[training] = _comparable(outputs, subject.detects and not training)
    return expected, output_sizes(outputs)


def _check_training(small: nn.Module, inputs: tuple[Any, ...], expected: dict[bool, Any]) -> None:
    """Forward and backward in training mode, forward in evaluation mode; the dense model's output shapes in both."""
    outputs = small.train()(*inputs)
    floating = [output for output in tensors_in(outputs) if output.is_floating_point() and output.requires_grad]
    torch.stack([output.float().pow(2).mean() for output in floating]).sum().backward()
    assert any(parameter.grad is not None for parameter in small.parameters()), "no gradient arrives"
    with torch.no_grad():
        found = {True: outputs, False: small.eval()(*inputs)}
    for training, shape in expected.items():
        varies = isinstance(shape, _Varying)
        assert _comparable(found[training], varies) == shape, "the output has another shape"


class _Varying(list[Any]):
    """Shapes whose first size depends on the weights: how many things a detector finds."""


def _comparable(outputs: Any, varies: bool) -> Any:
    if not varies:
        return shapes(outputs)
    return _Varying({name: tuple(found.shape[1:]) for name, found in image.items()} for image in outputs)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
