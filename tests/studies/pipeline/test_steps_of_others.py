"""A run whose recipe names methods of third parties reads its own artifacts; nobody else reads them unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowprune.artifacts import load, read_header
from flowprune.errors import ArtifactError
from flowprune.methods.codecs import REGISTRY as CODECS
from flowprune.methods.codecs import PackedBits
from flowprune.methods.masks import NM
from flowprune.methods.masks import REGISTRY as MASKS
from flowprune.studies.pipeline.run import run
from flowprune.studies.recipe import Recipe


class OtherMask(NM):
    """Of a third party."""


class OtherBits(PackedBits):
    """Of a third party."""

    def encode(self, array):
        header, arrays = super().encode(array)
        return type(super().encode(array))({**header, "codec": "other_bits"}, arrays)

    def decode(self, parts):
        return super().decode(parts._replace(header={**parts.header, "codec": "packed_bits"}))


def test_a_run_goes_on_from_what_others_methods_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, name, method in ((MASKS, "other_mask", OtherMask), (CODECS, "other_bits", OtherBits)):
        list(registry)
        monkeypatch.setitem(registry._items, name, method)
    recipe = Recipe.model_validate({
        "network": {"name": "vgg6", "options": {"in_channels": 1, "width": 4}},
        "data": {"name": "digits", "subset": 64},
        "phases": [
            {"phase": "train", "training": {"epochs": 1, "batch_size": 32}},
            {"phase": "mask", "mask": "other_mask", "budgets": [{"weights": 0.5}]},
            {"phase": "quantize", "quantizer": "uq", "options": {"values": 8}, "codec": "other_bits"},
            {"phase": "recover", "training": {"epochs": 0, "batch_size": 32}},
        ],
    })  # fmt: skip
    run(recipe, tmp_path / "run", progress=False, say=lambda line: None)
    (packed,) = (tmp_path / "run" / "models").glob("*quantized.fp")
    assert read_header(packed).coded
    with pytest.raises(ArtifactError, match="other_mask"):
        load(packed)
    with pytest.raises(ArtifactError, match="other_bits"):
        load(packed, allow=["other_mask"])
    assert load(packed, allow=["other_mask", "other_bits"]) is not None
