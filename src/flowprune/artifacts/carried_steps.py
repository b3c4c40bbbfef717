"""The steps of an artifact, carried out again on a fresh model: its structure follows, its weights come from the file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowprune.engine.allocation import Plan
from flowprune.engine.interfaces import Codec, Replacement
from flowprune.engine.steps import Step
from flowprune.engine.surgery import cut
from flowprune.errors import ArtifactError, FlowpruneError, one_line
from flowprune.methods.codecs import REGISTRY as CODECS
from flowprune.methods.replacements import REGISTRY as REPLACEMENTS
from flowprune.methods.replacements import replace_modules, restore_modules
from flowprune.registry import Registry


def carried_out(model: nn.Module, steps: Sequence[Step]) -> nn.Module:
    """A model of the structure that the steps make of ``model``; a mask and a quantization change no structure.

    Raises:
        FlowpruneError: a step does not fit the model.
        ArtifactError: a step is none that is known.
    """
    with torch.random.fork_rng():
        for number, step in enumerate(steps, start=1):
            try:
                if step.kind == "cut":
                    model = cut(model, Plan.from_dict(step.data))
                elif step.kind == "replace":
                    model = _replaced(model, step)
            except KeyError as error:
                raise ArtifactError(f"step {number} ({step.kind}) says no {error.args[0]}; save it again") from error
    return model


def check_allowed(steps: Sequence[Step], allow: Collection[str], file: Path) -> None:
    """Raise an ``ArtifactError`` for a step of a third party's method that ``allow`` does not name, or that is not installed."""
    for number, step in enumerate(steps, start=1):
        for registry, name, is_run in _methods(step):
            if name in registry.own_names():
                continue
            if name not in allow:
                raise ArtifactError(
                    f"{file}: step {number} ({step.kind}) is by the {registry.kind} {name!r}, which is not of this package; "
                    f"if you trust it, load(path, allow=[{name!r}]), or --allow {name} on the command line"
                )
            if is_run and name not in registry:
                raise ArtifactError(f"{file}: step {number} needs the {registry.kind} {name!r}, which is not installed")


def codec_called(name: str, allow: Collection[str]) -> Codec:
    """A codec, to decode by; what is decoded has its options with it.

    Raises:
        ArtifactError: it is neither this package's nor named by ``allow``, or not installed.
    """
    if name not in CODECS.own_names() and (name not in allow or name not in CODECS):
        raise ArtifactError(
            f"a tensor is stored by the codec {name!r}, which is neither this package's nor allowed by allow="
        )
    codec: Codec = CODECS.built(name)
    return codec


def check_rebuildable(steps: Sequence[Step]) -> None:
    """Raise an ``ArtifactError`` for a step that no artifact can name so that it could be carried out again."""
    for step in steps:
        if step.kind == "replace" and step.data["replacement"] not in REPLACEMENTS:
            raise ArtifactError(
                f"the replacement {step.data['replacement']} is not registered, so a file could not name it; register it by the "
                "entry point flowprune.replacements, or restore the model before it is saved"
            )


def _replaced(model: nn.Module, step: Step) -> nn.Module:
    replacement: Replacement = REPLACEMENTS.built(step.data["replacement"])
    if step.data.get("restored"):
        return restore_modules(model, replacement)
    try:
        return replace_modules(model, replacement, step.data["modules"], **step.data["options"])
    except TypeError as error:
        raise FlowpruneError(
            f"{step.data['replacement']} cannot take the options that the file has ({one_line(error)})"
        ) from error


def _methods(step: Step) -> Iterator[tuple[Registry[Any], str, bool]]:
    """The methods that a step names: their registry, their name, and whether loading runs them."""
    named: tuple[tuple[str, Registry[Any], bool], ...] = ()
    if step.kind == "mask":
        from flowprune.methods.masks import REGISTRY as MASKS  # here: most artifacts have none, and it takes a moment

        named = (("mask", MASKS, False),)
    elif step.kind == "replace":
        named = (("replacement", REPLACEMENTS, True),)
    elif step.kind == "quantize":
        from flowprune.methods.quantizers import REGISTRY as QUANTIZERS

        named = (("quantizer", QUANTIZERS, False), ("codec", CODECS, True))
    for key, registry, is_run in named:
        name = step.data.get(key)
        if name is not None:
            yield registry, str(name), is_run
