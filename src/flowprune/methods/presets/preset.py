"""What the file of a system says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowprune.errors import RecipeError

Layers = Literal["linear", "grouped", "depthwise", "transformer"]
"""Kinds of networks that a system says something of."""

Kind = Literal["structured", "mask", "fixed pattern", "quantizer", "codec", "recovery"]

KINDS: dict[Kind, tuple[str, ...]] = {
    "structured": ("macs", "params", "channels", "threshold", "latency"),
    "mask": ("weights",),
    "fixed pattern": (),
    "quantizer": ("bytes",),
    "codec": ("bytes",),
    "recovery": ("macs", "params", "channels", "threshold", "latency"),
}
"""Kind of a system -> the budgets it can be asked for."""


class Preset(BaseModel):
    """A system of the literature.

    Attributes:
        name: of the file.
        title: in full.
        paper: authors, where, when, and its number.
        kind: what it does to a network, which is also what can be asked of it.
        fidelity: whether the fixtures of the authors' code agree, and what they do not cover, or what it was made from.
        about: what it does, in a sentence or a few.
        equation: its formula, as text.
        good_for: what it is good for, and what not.
        cost: in time and memory.
        linear, grouped, transformers: what it does with linear layers, with grouped and depthwise convolutions, with transformers.
        layers: kind of a tiny network, whose layers are "first", "hidden" and "head"; "stem", "plain", "grouped" or "depthwise",
            "pointwise" and "head"; "patches", "attention", "feed_forward" and "head" -> those that the short form acts on, or
            "refused", where it says in a line why it cannot act on such a network. The tests run it.
        lacks: settings of the paper that our loop lacks, one a line.
        budgets: the budgets it can be asked for; those of its kind if left out.
        published: where the settings are from, of which ``phases`` is made.
        phases: as in a recipe, with holes: network, data and budget, which a recipe fills.
        short: what a run on the embedded digits changes in ``recipes/short.yaml``: its ``phases`` above all; ``keep`` is what is
            in their holes, if they have any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    paper: str
    kind: Kind
    fidelity: Annotated[
        str, Field(pattern=r"^(compared with the authors' code(, but for [^,]+)?|from the published text|-style)$")
    ]
    about: str
    equation: str
    good_for: str
    cost: str
    linear: str
    grouped: str
    transformers: str
    layers: dict[Layers, list[str] | Literal["refused"]] = Field(default_factory=dict)
    lacks: list[str] = Field(default_factory=list)
    budgets: list[str] | None = None
    published: str
    phases: list[dict[str, Any]] = Field(min_length=1)
    short: dict[str, Any]

    @property
    def takes(self) -> tuple[str, ...]:
        """The kinds of budgets it can be asked for."""
        return KINDS[self.kind] if self.budgets is None else tuple(self.budgets)


def preset_from(name: str, source: object) -> Preset:
    """The preset that a file, its text as a mapping, or an entry point's object describes.

    Raises:
        RecipeError: it does not; the first complaint.
    """
    try:
        content = (
            yaml.safe_load(Path(source).read_text(encoding="utf-8")) if isinstance(source, (str, Path)) else source
        )
        if not isinstance(content, Mapping):
            raise RecipeError(
                f"the preset {name} is no mapping, but {type(content).__name__}; write it as its file would be"
            )
        return Preset.model_validate({**content, "name": name})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"the preset {name}: {key}: {first['msg']}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"the preset {name} cannot be read: {' '.join(str(error).split())}") from None
