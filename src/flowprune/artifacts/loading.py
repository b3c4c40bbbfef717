"""Load an artifact: rebuild the dense architecture, change it as it was changed, and fill in the weights."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from flowprune.artifacts.carried_steps import carried_out, check_allowed, codec_called
from flowprune.artifacts.header import Header, check_is_file, unreadable
from flowprune.engine.steps.carried_masks import held_where
from flowprune.engine.steps.lineage import Lineage, attach_lineage
from flowprune.engine.tracing import model_of
from flowprune.engine.tracing.shadow import check_sizes_known
from flowprune.errors import ArtifactError, FlowpruneError, ModelError, UnknownNameError, counted, one_line
from flowprune.methods.codecs.stored_model import StoredModel, restored_tensors
from flowprune.models import create, runs_own_code

_WHERE_WEIGHTS_COME_FROM = ("weights", "pretrained", "checkpoint")


def load(path: str | Path, model: nn.Module | None = None, *, allow: Collection[str] = ()) -> nn.Module:
    """The model that ``save`` wrote, on the CPU.

    No code is loaded: the file holds tensors and JSON. A builder's name is followed only to this package's, torchvision's
    and timm's models; one of your own code ("package.module:function") would let a file choose what is imported, so build
    that model yourself and pass it.

    Args:
        path: of the artifact.
        model: a fresh dense instance, for a model that ``flowprune.models.create`` did not build. It is not touched, its
            weights do not matter; the result is in the mode it is in. Without it the result is in training mode, as
            ``create`` gives it.
        allow: names of masks, replacements, quantizers and codecs of third parties that the file may ask for; steps of any
            others are refused. A name is looked up among the installed entry points, never imported from a path.

    Returns:
        An ordinary, smaller module. It saves, loads and prunes again as before.

    Raises:
        ArtifactError: the file is missing, damaged or foreign, needs ``model=`` or ``allow=``, or does not fit the model.

    Example:
        >>> import torch, flowprune as fp
        >>> fp.save(torch.nn.Linear(4, 2), "small.fp")
        >>> fp.load("small.fp", model=torch.nn.Linear(4, 2))
        Linear(in_features=4, out_features=2, bias=True)
    """
    file = Path(path)
    header, stored, masks = read_artifact(file, allow)
    fits = "the architecture" if model is None else f"the {type(model).__name__} given as model="
    dense = _build(header, file) if model is None else _own_copy(model)
    try:
        result = carried_out(dense, header.steps)
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}") from error
    except FlowpruneError as error:
        raise ArtifactError(f"{file} does not fit {fits}: {error}") from error
    except (RuntimeError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ArtifactError(f"{file}: its steps cannot be carried out on {fits} ({one_line(error)})") from error
    fill(result, stored, header, f"{file} does not fit {fits}")
    try:
        masks = held_where(result, masks)
    except ModelError as error:
        raise ArtifactError(f"{file} does not fit {fits}: {error}") from error
    attach_lineage(result, Lineage(header.builder, header.options, header.steps, masks))
    return result


def read_artifact(file: Path, allow: Collection[str] = ()) -> tuple[Header, dict[str, Tensor], dict[str, Tensor]]:
    """Header, tensors by every name they go by, and masks.

    Raises:
        ArtifactError: the file is missing, damaged or foreign, or has a step of a third party that ``allow`` does not name.
    """
    check_is_file(file)
    try:
        with safe_open(file, framework="pt") as content:
            stored: dict[str, Tensor] = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            header = Header.from_metadata(content.metadata(), file, stored)
    except (SafetensorError, OSError, ValueError) as error:
        raise unreadable(file, error) from error
    check_allowed(header.steps, allow, file)
    whole = StoredModel(stored, header.shared, header.coded, header.masks)
    try:
        stored, masks = restored_tensors(whole, lambda name: codec_called(name, allow))
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}; save it again") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise ArtifactError(f"{file}: its codes are damaged ({one_line(error)}); save it again") from error
    for name, first in header.shared.items():
        if first not in stored:
            raise ArtifactError(f"{file}: {name} should share the tensor {first}, which is missing; save it again")
        stored[name] = stored[first]
    return header, stored, masks


def _build(header: Header, file: Path) -> nn.Module:
    """The dense architecture of a builder known by name; the global random state is left as it was."""
    if header.builder is None:
        raise ArtifactError(
            f"{file} holds a {header.architecture} of your own: pass a fresh dense instance, load(path, model=...)"
        )
    if runs_own_code(header.builder):
        raise ArtifactError(
            f"{file} holds a {header.architecture} built by {header.builder!r}, which is no code of this package's: "
            f"build it yourself and pass it, load(path, model=...), or --builder {header.builder} on the command line"
        )
    # The weights are in this file: an option that would fetch others, from another file or the net, has no place here.
    options = {
        key: value
        for key, value in header.options.items()
        if not any(word in str(key) for word in _WHERE_WEIGHTS_COME_FROM)
    }
    try:
        with torch.random.fork_rng():
            return create(header.builder, **options)
    except (ModelError, UnknownNameError, TypeError) as error:
        raise ArtifactError(f"{file} cannot be rebuilt: {one_line(error)}") from error


def _own_copy(model: nn.Module) -> nn.Module:
    try:
        check_sizes_known(model)
        return copy.deepcopy(model_of(model))
    except ModelError as error:
        raise ArtifactError(f"model= is no fresh instance: {error}") from error
    except Exception as error:  # deepcopy runs the user's own code
        raise ArtifactError(f"the model given as model= cannot be copied ({one_line(error)})") from error


def fill(model: nn.Module, stored: dict[str, Tensor], header: Header, complaint: str) -> None:
    """Put exactly these tensors, in their types, into ``model``, and share those that were shared.

    Raises:
        ArtifactError: a name is missing, left over or of another shape. It begins with ``complaint``.
    """
    held = model.state_dict()
    missing, unknown = sorted(held.keys() - stored.keys()), sorted(stored.keys() - held.keys())
    wrong = [name for name, tensor in held.items() if name in stored and tensor.shape != stored[name].shape]
    if missing or unknown or wrong:
        parts = [
            *([f"{counted(len(missing), 'tensor')} missing ({missing[0]}, ...)"] if missing else []),
            *([f"{len(unknown)} not in it ({unknown[0]}, ...)"] if unknown else []),
            *(
                [
                    f"{len(wrong)} of another shape ({wrong[0]}: {list(stored[wrong[0]].shape)} in the file, "
                    f"{list(held[wrong[0]].shape)} in the model)"
                ]
                if wrong
                else []
            ),
        ]
        raise ArtifactError(f"{complaint}: {'; '.join(parts)}; was it saved from another model?")
    _share(model, header)
    places = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    for name, tensor in stored.items():
        if name in places and places[name].dtype != tensor.dtype:
            places[name].data = places[name].data.to(tensor.dtype)
    # Modules may read their own version there (MNASNet does, to tell its old checkpoints); the file is of this version.
    versioned = OrderedDict(stored)
    versioned._metadata = getattr(held, "_metadata", None)  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=True)
    now = model.state_dict()
    for name, tensor in stored.items():
        if not torch.equal(torch.nan_to_num(now[name]), torch.nan_to_num(tensor)):
            raise ArtifactError(f"{complaint}: the model shares {name} with another tensor, the file does not")


def _share(model: nn.Module, header: Header) -> None:
    """Tie what was tied when the artifact was written and is not in a fresh instance (tied by hand after building)."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, first in header.shared.items():
        if name not in parameters or first not in parameters or parameters[name] is parameters[first]:
            continue
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, parameters[first])
