"""Types that many public signatures share: the example inputs of a model, and the choices of a cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from torch import Tensor

Inputs: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""What a forward takes: a tensor, its positional arguments, or its keyword arguments by name."""

Scope: TypeAlias = Literal["global", "local"]
"""Whether the channels of all groups are ranked together, or every group loses the same share."""

Heads: TypeAlias = Literal["whole", "inside", "both"]
"""Whether attention loses whole heads, the same number of channels inside each, or both."""

Branches: TypeAlias = bool | Literal["always"]
"""Whether the dead ends of residual branches leave: where that saves time, nowhere, or always."""
