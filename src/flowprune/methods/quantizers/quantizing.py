"""The verb ``quantize``: a model in, one back whose weights are few values, and which knows how they are stored."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Codec, Quantizer
from flowprune.engine.measuring.single_weights import single_weights
from flowprune.engine.planning.exemptions import Ignored, not_ignored
from flowprune.engine.signatures import Inputs
from flowprune.engine.steps.carried_masks import set_to_zero
from flowprune.engine.steps.copying import copy_of
from flowprune.engine.steps.lineage import Step, attach_lineage, lineage_of
from flowprune.engine.steps.own_tensors import own_tensors
from flowprune.engine.steps.trying import check_runs
from flowprune.errors import BudgetError, FlowpruneError, one_line
from flowprune.methods.codecs import REGISTRY as CODECS
from flowprune.methods.codecs.stored_model import stored_model
from flowprune.methods.quantizers.registry import REGISTRY

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def quantize(
    model: nn.Module,
    inputs: Inputs,
    *,
    quantizer: str | Quantizer = "cws",
    codec: str | Codec = "huffman",
    bytes: float | str | None = None,
    ignore: Ignored = (),
    codec_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """A new model whose weights are few values, and which ``fp.save`` stores by a codec; ``model`` is untouched.

    The weights of convolutions, linear layers, attention and recurrent layers are quantized, all together; biases, norms and
    embeddings are not. What is masked stays zero.

    Args:
        model: any module.
        inputs: example inputs of its forward; the new model is run on them once.
        quantizer: a name of ``fp.list_methods("quantizers")``, or an object like those.
        codec: a name of ``fp.list_methods("codecs")``, or an object of one of those: "huffman" (HAM), "sparse_huffman" (sHAM, for
            weights that are mostly zero) or "packed_bits".
        bytes: what all tensors of the artifact take, exactly, without its header: a share of what they take now (0.1) or
            a size ("120KB", "1MiB"). Of the quantizer's own list of sizes the one is taken that fits while the next larger does
            not, found by halving; give this or the quantizer's own option for it (``values=``).
        ignore: modules, dotted names or patterns whose weights stay as they are.
        codec_options: of the codec's constructor (``{"table_bits": 0}``), where it is given by name.
        **options: of the quantizer (``values=16``).

    Raises:
        BudgetError: even the smallest candidate takes more bytes, or the budget is malformed.
        ModelError: a weight is NaN or computed from other parameters, an entry of ``ignore`` covers nothing, or the model does not
            run on ``inputs``.
        UnknownNameError: there is no such quantizer, codec or option.

    Example:
        >>> import torch, flowprune as fp
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> few = fp.quantize(model, torch.zeros(1, 64), quantizer="uq", codec="huffman", values=8)
        >>> len(few[0].weight.unique()) <= 8
        True
    """
    built = REGISTRY.built(quantizer, {}) if isinstance(quantizer, str) else quantizer
    code, code_options = _codec(codec, codec_options or {})
    every = single_weights(model)
    weights = {name: every[name] for name in not_ignored(every, model, ignore)}
    if not weights:
        raise FlowpruneError("ignore= leaves no weights to quantize")
    about: dict[str, Any] = {
        "quantizer": quantizer if isinstance(quantizer, str) else REGISTRY.name_of(quantizer),
        "codec": code,
        "codec_options": code_options,
        "parameters": list(weights),
    }
    if bytes is None:
        found = _carried_out(model, built, weights, options, about)
    else:
        found = _largest_that_fits(model, built, weights, options, about, _limit(bytes, model))
    check_runs(found, inputs)
    return found


def _carried_out(
    model: nn.Module,
    quantizer: Quantizer,
    weights: Mapping[str, Tensor],
    options: Mapping[str, Any],
    about: Mapping[str, Any],
) -> nn.Module:
    """The quantized copy, with its step."""
    known = [one for one in inspect.signature(quantizer.fit).parameters.values() if one.kind is one.KEYWORD_ONLY]
    missing = [one.name for one in known if one.default is one.empty and one.name not in options]
    if missing:
        raise FlowpruneError(f"{type(quantizer).__name__} needs {missing[0]}=, for example {missing[0]}=16, or bytes=")
    try:
        fitted = quantizer.fit(weights, **options)
        values = fitted.dequantize()
    except TypeError as error:
        raise FlowpruneError(
            f"{type(quantizer).__name__} cannot take the options {dict(options)}: {one_line(error)}"
        ) from error
    copied = copy_of(model)
    parameters = dict(copied.named_parameters())
    with torch.no_grad():
        for name, weight in values.items():
            parameters[name].copy_(weight)
    lineage = lineage_of(model)
    set_to_zero(copied, lineage.masks)
    stored = getattr(fitted, "stored_with", None)
    known_to_codec = inspect.signature(CODECS[about["codec"]]).parameters
    if stored and all(option in known_to_codec for own in stored.values() for option in own):
        about = {**about, "stored_with": stored}
    attach_lineage(copied, lineage.with_step(Step("quantize", {**about, "options": dict(options)})))
    return copied


def _largest_that_fits(
    model: nn.Module,
    quantizer: Quantizer,
    weights: Mapping[str, Tensor],
    options: Mapping[str, Any],
    about: Mapping[str, Any],
    limit: int,
) -> nn.Module:
    """The quantized copy of the largest size that takes no more than ``limit`` bytes; more of them are taken to need more."""
    option, sizes = getattr(quantizer, "size_option", None), getattr(quantizer, "sizes", ())
    if option is None or not sizes:
        raise BudgetError(f"{type(quantizer).__name__} has no list of sizes to choose from by bytes=; give its options")
    if option in options:
        raise BudgetError(f"give {option}= or bytes=, not both")
    best: nn.Module | None = None
    least: tuple[int, int] | None = None
    failed: FlowpruneError | None = None
    candidates = sorted(sizes)
    low, high = 0, len(candidates) - 1
    while low <= high:
        middle = (low + high) // 2
        size = candidates[middle]
        try:
            found = _carried_out(model, quantizer, weights, {**options, option: size}, about)
        except FlowpruneError as error:  # too few for these weights
            failed, low = error, middle + 1
            continue
        took = stored_model(found).size
        if took <= limit:
            best, low = found, middle + 1
        else:
            least, high = (took, size) if least is None else min(least, (took, size)), middle - 1
    if best is not None:
        return best
    if least is None:
        assert failed is not None
        raise failed
    why = f" (fewer: {failed})" if failed is not None else ""
    raise BudgetError(
        f"bytes={limit:,} is less than {type(quantizer).__name__} with {about['codec']} can do: {option}={least[1]} takes "
        f"{least[0]:,} bytes, the fewest there are{why}"
    )


def _codec(codec: str | Codec, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The codec's name and options, which are all that an artifact keeps of it."""
    if isinstance(codec, str):
        CODECS.built(codec, options)
        return codec, dict(options)
    name = CODECS.name_of(codec)
    if name is None:
        raise FlowpruneError(
            f"the codec {type(codec).__name__} is not registered, so no artifact could name it; register it as flowprune.codecs"
        )
    if options:
        raise FlowpruneError(f"codec_options are for a codec given by name; build the {type(codec).__name__} with them")
    return name, {key: getattr(codec, key) for key in inspect.signature(type(codec)).parameters}


def _limit(asked: float | str, model: nn.Module) -> int:
    """How many bytes there may be.

    Raises:
        BudgetError: it is neither a share nor a size.
    """
    if isinstance(asked, str):
        found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMG]I?)?B?\s*", asked, flags=re.IGNORECASE)
        if found is None or float(found[1]) == 0:
            raise BudgetError(f'bytes={asked!r} is not a budget; write a share like 0.1 or a size like "120KB"')
        return int(float(found[1]) * _UNITS[(found[2] or "").upper()])
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not 0 < asked <= 1:
        raise BudgetError(
            f'bytes={asked!r} is not a budget: a share is a number above 0 and at most 1, a size a string like "120KB"'
        )
    return int(asked * sum(tensor.nbytes for tensor in own_tensors(model)[0].values()) + 1e-6)
