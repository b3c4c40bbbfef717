"""From a name to a model: this package's networks, torchvision's, timm's, or a function of the user's own."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from flowprune.engine.steps.lineage import Lineage, attach_lineage
from flowprune.errors import FlowpruneError, ModelError, UnknownNameError
from flowprune.models.own_names import RESNET_BLOCKS, UnknownModelError
from flowprune.models.resnet import CifarResNet
from flowprune.models.vgg import PlainNet
from flowprune.models.weights import load_weights

Builder = Callable[..., nn.Module]

_BUILDERS: dict[str, Builder] = {
    **{f"resnet{6 * blocks + 2}": partial(CifarResNet, blocks) for blocks in RESNET_BLOCKS},
    "vgg6": partial(PlainNet, (2, 2, 1), hidden=False, width=16),
    "vgg16": partial(PlainNet, (2, 2, 3, 3, 3), hidden=True),
    "vgg19": partial(PlainNet, (2, 2, 4, 4, 4), hidden=True),
}


def names() -> list[str]:
    """The networks of this package; beside them go ``torchvision:NAME``, ``timm:NAME``, ``package.module:function``."""
    return sorted(_BUILDERS, key=lambda name: (name.rstrip("0123456789"), len(name), name))


def runs_own_code(name: str) -> bool:
    """Whether building this name imports a module of the user's, or of somebody else's: ``package.module:function``."""
    source, colon, _ = name.partition(":")
    return bool(colon) and source not in ("torchvision", "timm")


def check_name(name: str) -> None:
    """Raise what ``create`` raises for a name that neither this package, torchvision nor timm has. Nothing is built, and a module
    of somebody else's is not looked at.
    """
    if not runs_own_code(name):
        _resolve(name)


def create(name: str, *, classes: int | None = None, weights: str | Path | None = None, **options: Any) -> nn.Module:
    """Build a model in training mode, randomly initialised, or with the weights of a file.

    Args:
        name: one of ``names()``, ``torchvision:NAME``, ``timm:NAME`` or ``package.module:function``.
        classes: number of logits; the builder's own default if None (10 for this package's networks). A builder of
            somebody else's receives it as ``classes`` or ``num_classes``, whichever it takes.
        weights: a file with weights for exactly this model (see ``load_weights``). Nothing is ever downloaded.
        **options: for the builder; this package's networks take ``in_channels`` and ``width``. They must be
            JSON-able, since an artifact writes them down to rebuild the model.

    Raises:
        UnknownNameError: nothing has this name; the nearest one is suggested.
        ModelError: the builder fails or returns something else than a module, or the weights do not fit.
    """
    try:
        recorded: dict[str, Any] = json.loads(json.dumps(options))
    except (TypeError, ValueError) as error:
        raise ModelError(f"the options of model {name!r} must be plain JSON values ({error})") from error
    builder = _resolve(name)
    arguments = dict(options)
    if classes is not None:
        keyword = _classes_keyword(name, builder)
        if keyword is None:
            raise ModelError(f"model {name!r} takes neither classes nor num_classes; leave classes out")
        arguments[keyword] = classes
        recorded["classes"] = classes
    try:
        model = builder(**arguments)
    except FlowpruneError:
        raise
    except Exception as error:  # somebody else's code
        raise ModelError(f"cannot build {name!r} with {arguments}: {_in_short(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name!r} returned {type(model).__name__}, not a torch.nn.Module")
    if weights is not None:
        load_weights(model, weights)
    attach_lineage(model, Lineage(builder=name, options=recorded))
    return model


def _resolve(name: str) -> Builder:
    source, colon, rest = name.partition(":")
    if not colon:
        if name not in _BUILDERS:
            raise UnknownModelError(name)
        return _BUILDERS[name]
    if source == "torchvision":
        return _torchvision(rest)
    if source == "timm":
        return _timm(rest)
    return _users_own(source, rest)


def _torchvision(name: str) -> Builder:
    try:
        from torchvision import models
    except ImportError as error:
        raise ModelError(f"model 'torchvision:{name}' needs torchvision: pip install 'flowprune[run]'") from error

    known = models.list_models()
    if name not in known:
        raise UnknownNameError("torchvision model", name, known)
    builder: Builder = models.get_model_builder(name)
    # Detection and segmentation builders would fetch a pretrained backbone by default.
    pretrained = [key for key in ("weights", "weights_backbone") if key in inspect.signature(builder).parameters]
    return partial(builder, **dict.fromkeys(pretrained))


def _timm(name: str) -> Builder:
    try:
        import timm
    except ImportError as error:
        raise ModelError(f"model 'timm:{name}' needs timm: pip install 'flowprune[zoo]'") from error
    if ":" in name or not timm.is_model(name):  # a second colon is timm's way to download from a hub
        raise UnknownNameError("timm model", name, timm.list_models())
    return partial(timm.create_model, name, pretrained=False)


def _users_own(module: str, function: str) -> Builder:
    where = f"model '{module}:{function}'"
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"{where}: cannot import {module!r} ({error}); a name is one of {', '.join(names())}, "
            "torchvision:NAME, timm:NAME or package.module:function"
        ) from error
    except ValueError as error:
        raise ModelError(f"{where}: {module!r} is no module name") from error
    except Exception as error:  # whatever the module does when it is imported
        raise ModelError(f"{where}: {module!r} fails when it is imported: {_in_short(error)}") from error
    builder = getattr(found, function, None)
    if not callable(builder):
        callables = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
        raise UnknownNameError(f"function of {module}", function, callables)
    return builder  # type: ignore[no-any-return]


def takes_classes(name: str) -> bool:
    """Whether the builder of this name can be told the number of classes.

    Raises:
        UnknownNameError, ModelError: as ``create``.
    """
    return _classes_keyword(name, _resolve(name)) is not None


def _classes_keyword(name: str, builder: Builder) -> str | None:
    if name in _BUILDERS:
        return "classes"
    if name.startswith(("torchvision:", "timm:")):
        return "num_classes"
    parameters = inspect.signature(builder).parameters
    return next((keyword for keyword in ("classes", "num_classes") if keyword in parameters), None)


def _in_short(error: BaseException) -> str:
    line = str(error).partition("\n")[0]
    if isinstance(error, (TypeError, ValueError, RuntimeError, AssertionError)) and line:
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
