from __future__ import annotations

import pytest
from torch import nn

from flowprune.errors import ModelError
from flowprune.methods.replacements import REGISTRY


@pytest.mark.parametrize("name", ["filter_basis", "hashed_convolution", "linear_expansion"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_a_layer_with_hooks_is_refused(name: str, kind: str) -> None:
    replacement, layer = REGISTRY.built(name), nn.Conv2d(4, 4, 3)
    assert replacement.matches(layer)
    getattr(layer, f"register_{kind}_hook")(lambda *_: None)
    with pytest.raises(ModelError, match="Conv2d has hooks"):
        replacement.replace(layer)
