"""What a compression leaves: the artifact, ONNX, how fast and how good it is, and a page of it all."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.artifacts import export, save
from flowprune.engine.measuring import measure
from flowprune.errors import ArtifactError, FlowpruneWarning, ModelError
from flowprune.reporting import environment
from flowprune.reporting.template import write_page
from flowprune.studies.compression.compressing import Compressed
from flowprune.studies.compression.compression_page import compression_html
from flowprune.studies.compression.compression_record import ARTIFACT, ONNX, REPORT
from flowprune.studies.compression.paired_drop import paired_drop
from flowprune.studies.compression.scored import Scored
from flowprune.studies.speed import Conditions, Contestant, side_by_side
from flowprune.training import Data
from flowprune.training.evaluation import right_answers

TURNS = 7


def handed_over(
    done: Compressed,
    dense: nn.Module,
    data: Data,
    folder: Path,
    name: str,
    notes: Mapping[str, Any],
    backend: str,
    *,
    onnx: bool = True,
) -> dict[str, Any]:
    """Look at the test images, once; time both models in turns; write everything.

    Args:
        done: the compression, whose record lies in ``folder``.
        dense: the model before.
        data: its test images are those that nothing has seen yet.
        folder: receives the files.
        name: of the model, for people.
        notes: of the artifact, but for its accuracy.
        backend: what runs the forwards that are timed.
        onnx: whether to write ONNX, too.

    Returns:
        The content of ``compress.json``.
    """
    record, x = done.record, data.example_input()

    def tested() -> dict[str, Any]:
        before, after = (Scored.of(right_answers(model, data)) for model in (dense, done.model))
        assert before.right is not None and after.right is not None
        drop = paired_drop(before.right, after.right)
        return {"before": before.accuracy, "after": after.accuracy, "drop": vars(drop)}

    test = record.once("test", tested)
    costs = [measure(copy.deepcopy(model).cpu(), x) for model in (dense, done.model)]
    record.put("cost", {"macs": [cost.macs for cost in costs], "params": [cost.params for cost in costs]})
    record.once("speed", lambda: _timed(dense, done.model, tuple(x.shape[1:]), backend))
    record.once("environment", environment)
    record.put(
        "layers", [{"layer": one.layer, "dense": one.channels[0], "kept": one.channels[1]} for one in done.plan.layers]
    )
    noted = {**notes, "top1": test["after"]}
    save(done.model, folder / ARTIFACT, notes=noted)
    written = [ARTIFACT, *_exported(done.model, x, folder / ONNX, noted)] if onnx else [ARTIFACT]
    write_page(compression_html(record.content, name, data.name), folder / REPORT)
    record.put("files", [*written, REPORT])
    return record.content


def _exported(small: nn.Module, x: Tensor, path: Path, notes: Mapping[str, Any]) -> list[str]:
    """The name of the ONNX file, if it could be written; else a warning says why it is not."""
    try:
        export(small, torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), path, notes=notes)
    except (ArtifactError, ModelError) as error:
        warnings.warn(f"no ONNX file is written: {error}", FlowpruneWarning, stacklevel=2)
        return []
    return [path.name]


def _timed(dense: nn.Module, small: nn.Module, shape: tuple[int, ...], backend: str) -> list[dict[str, Any]]:
    contestants = [
        Contestant(label, copy.deepcopy(model).cpu().eval(), shape)
        for label, model in (("before", dense), ("after", small))
    ]
    return [asdict(row) for row in side_by_side(contestants, [Conditions(backend, 1, torch.get_num_threads())], TURNS)]
