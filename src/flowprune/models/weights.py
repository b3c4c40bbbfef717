"""Put weights from a file into a model: ``.th`` and ``.pt`` checkpoints, plain state dicts, safetensors. No code is
ever loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from flowprune.engine.measuring import is_finite
from flowprune.errors import ModelError

_WRAPPERS = ("state_dict", "model")
_DATA_PARALLEL = "module."


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the file's weights into ``model``, in place; nothing is changed where they do not fit.

    A wrapping ``state_dict`` key and the ``module.`` prefix of data-parallel training are taken off. Counters of
    batches that batch norms keep (``num_batches_tracked``), which old files lack, start at 0; no other key may be
    missing and none left over.

    Raises:
        ModelError: the file is missing or unreadable, does not hold a state dict, does not fit, or holds NaN or
            infinite weights.
    """
    file = Path(path)
    found = read_state_dict(file)
    expected = model.state_dict()
    for key, value in expected.items():
        if key.endswith("num_batches_tracked") and key not in found:
            found[key] = torch.zeros_like(value)
    complaints = [
        *_named("missing", [key for key in expected if key not in found]),
        *_named("not in the model", [key for key in found if key not in expected]),
        *_named(
            "of another shape",
            [
                f"{key} {list(found[key].shape)} instead of {list(value.shape)}"
                for key, value in expected.items()
                if key in found and found[key].shape != value.shape
            ],
        ),
    ]
    if complaints:
        raise ModelError(f"the weights in {file} do not fit the model: {'; '.join(complaints)}")
    broken = [key for key, value in found.items() if not is_finite(value)]
    if broken:
        raise ModelError(f"the weights in {file} are not finite ({_short(broken)}); train again or take another file")
    model.load_state_dict(found)


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors a weights file holds, by parameter name, on the CPU.

    Raises:
        ModelError: the file is missing, unreadable or holds something else.
    """
    if not file.is_file():
        raise ModelError(f"no weights file {file}")
    content: object
    try:
        if file.suffix == ".safetensors":
            content = safetensors.torch.load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise whatever a foreign file makes them stumble over
        raise ModelError(
            f"cannot read weights from {file} ({type(error).__name__}); expected safetensors or a torch state dict"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(f"{file} holds no state dict (names and tensors)")
    tensors = {str(key): value for key, value in content.items()}
    if all(key.startswith(_DATA_PARALLEL) for key in tensors):
        tensors = {key.removeprefix(_DATA_PARALLEL): value for key, value in tensors.items()}
    return tensors


def _named(what: str, keys: list[str]) -> list[str]:
    return [f"{len(keys)} {what} ({_short(keys)})"] if keys else []


def _short(keys: Iterable[str], most: int = 3) -> str:
    listed = list(keys)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
