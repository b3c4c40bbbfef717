"""Regularizers by the names they are registered under, with their options, as a recipe has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from torch import Tensor, nn

from flowprune.engine.interfaces import Regularizer
from flowprune.errors import RecipeError
from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.studies.sections import FlowSection, Section


class RegularizerSection(Section):
    """A regularizer by its registered name, and its options. In the file, a name alone may stand for one without options."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


def _full(short: Any) -> Any:
    return {"name": short} if isinstance(short, str) else short


NamedRegularizer = Annotated[RegularizerSection, BeforeValidator(_full)]


@contextmanager
def regularizers_on(
    model: nn.Module, example: Tensor, epochs: int, sections: Sequence[RegularizerSection]
) -> Iterator[list[Regularizer]]:
    """The regularizers of a training of so many epochs, on this very model; they leave it when the block ends.

    Raises:
        UnknownNameError: there is no regularizer or option of this name.
        RecipeError: an option has a value it cannot take.
        FlowpruneError: of a kind that says why a regularizer cannot act on this model.
    """
    with ExitStack() as attached:
        yield [attached.enter_context(_built(model, example, epochs, section)) for section in sections]


def _built(model: nn.Module, example: Tensor, epochs: int, section: RegularizerSection) -> Regularizer:
    options = _of_flow(section.options, epochs) if section.name == "ffr" else section.options
    regularizer: Regularizer = REGISTRY.built(section.name, options, None, model, inputs=example)
    return regularizer


def _of_flow(options: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """A flow's options as its section in a recipe has them, defaults too; a strength that changes is told the epochs."""
    try:
        return FlowSection.model_validate(dict(options)).options(epochs)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, reason = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"regularizer ffr: {f'{key}: ' if key else ''}{reason}") from error
