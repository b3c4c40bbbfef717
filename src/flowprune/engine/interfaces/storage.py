"""Fewer values for weights, how they are stored, and other modules in their places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from numpy.typing import NDArray
from torch import Tensor, nn


class Parts(NamedTuple):
    """An array as a codec stores it."""

    header: dict[str, Any]
    """Plain JSON values: the codec's name, shape, number type, options, and a check sum over all of it."""
    arrays: dict[str, NDArray[Any]]
    """What is counted by ``Codec.bits``, by name."""


@runtime_checkable
class Codec(Protocol):
    """A way to store arrays, built as ``Method(**options)``. Everything that decoding needs is in the parts.

    One that stores numbers of a certain form alone has ``fits(array) -> bool``; of others an array is worth storing where its
    numbers are few.
    """

    def encode(self, array: NDArray[Any]) -> Parts:
        """Store an array of any shape."""
        ...

    def decode(self, parts: Parts) -> NDArray[Any]:
        """The array again, bit for bit. Raises ArtifactError where the parts are damaged."""
        ...

    def bits(self, parts: Parts, table: bool = True) -> int:
        """How many bits the arrays of ``parts`` take, exactly; without the table that only speeds up decoding if not ``table``."""
        ...


@runtime_checkable
class Quantizer(Protocol):
    """Fewer values for weights, built as ``Method()``.

    It may carry the class attributes ``size_option``, the option of ``fit`` that decides what its result takes, and ``sizes``, the
    values of it that a budget of bytes chooses from.
    """

    def fit(self, weights: Mapping[str, Tensor], *args: Any, **options: Any) -> Quantized:
        """Codes and tables for the weights, by parameter name; every quantizer has keyword options of its own."""
        ...


@runtime_checkable
class Quantized(Protocol):
    """What a quantizer made of weights: codes and tables.

    It may have ``stored_with``: parameter name -> options that a codec which knows them is to be built with for it.
    """

    def dequantize(self) -> dict[str, Tensor]:
        """The weights again, by parameter name, with the shapes and number types that were handed in."""
        ...


@runtime_checkable
class Replacement(Protocol):
    """Another module in a module's place, built as ``Method()``; what it puts there may have ``effective_macs()``.

    One that has to see the model run also has ``in_model(model, inputs, names, **options)``: a copy of the model with modules
    put in by ``replace``, and (their paths, the options) each time that it was called, which is all that is written down.
    """

    def matches(self, module: nn.Module) -> bool:
        """Whether ``replace`` takes this module."""
        ...

    def replace(self, module: nn.Module, *args: Any, **options: Any) -> nn.Module:
        """A new module to stand in the place of ``module``, which is left as it is; keyword options are the replacement's own."""
        ...

    def restore(self, module: nn.Module) -> nn.Module | None:
        """A plain module with the function ``module`` has now; None where it is not one that ``replace`` made."""
        ...
