"""What layers with numbers of bits of their own cost: bits, bit operations, cycles of a processor. Exact for whole decisions.

With theta[p, f] the share of p bits for filter f, K taps a kernel, H positions and the inputs that are there,
``C = sum_c 1 - theta[0, c]`` (arXiv 2407.01054, the size as in the version that the paper used; the newest code counts the share of
0 bits twice, and both count the operations of linear layers as if nothing had been pruned before them)::

    size = K C sum_{f,p} theta[p, f] p;   bit operations = size H a;   cycles = sum_p K C H sum_f theta[p, f] / table[a][p]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import torch
import yaml
from torch import Tensor

from flowprune.errors import RecipeError, one_line

Cost = Literal["size", "bit_operations", "latency"]
COSTS: tuple[Cost, ...] = ("size", "bit_operations", "latency")
Table = Mapping[int, Mapping[int, float]]
"""Bits of activations -> bits of weights -> MACs a cycle."""


@dataclass(frozen=True)
class LayerSize:
    """What of a layer does not change while bits are searched.

    Attributes:
        taps: numbers of a kernel.
        positions: of the output, an image.
        activation_bits: of what it reads.
    """

    taps: int
    positions: int
    activation_bits: int


def cost_of(
    kind: Cost, layer: LayerSize, shares: Tensor, inputs: Tensor, precisions: Sequence[int], table: Table | None = None
) -> Tensor:
    """The cost of one layer, a 0-dim tensor.

    Args:
        kind: which.
        layer: its sizes.
        shares: theta ``[precisions, filters]``.
        inputs: how many of the inputs of a filter are there, a 0-dim tensor.
        precisions: numbers of bits.
        table: for the latency.
    """
    filters = shares.sum(1)
    if kind == "latency":
        assert table is not None
        speeds = table[layer.activation_bits]
        weights = [1 / speeds[bits] if bits else 0.0 for bits in precisions]
    else:
        weights = [float(bits) for bits in precisions]
    total = layer.taps * inputs * (filters * filters.new_tensor(weights)).sum()
    return total if kind == "size" else total * layer.positions * (layer.activation_bits if kind != "latency" else 1)


def latency_table(name: str, activation_bits: Sequence[int], precisions: Sequence[int]) -> Table:
    """The table of a processor.

    Args:
        name: of a file that comes with this package ("mpic"), or the path of one: YAML with ``macs_a_cycle``, a mapping of bits of
            activations to bits of weights to numbers.
        activation_bits, precisions: what has to be in it.

    Raises:
        RecipeError: there is no such file, it is no table, or a number is missing.
    """
    own = resources.files("flowprune.methods.regularizers").joinpath("latency_tables", f"{name}.yaml")
    path = Path(str(own)) if "/" not in name and own.is_file() else Path(name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        table = {int(a): {int(p): float(n) for p, n in row.items()} for a, row in content["macs_a_cycle"].items()}
    except FileNotFoundError:
        raise RecipeError(f"there is no latency table {name!r}; give mpic, or the path of a YAML file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecipeError(
            f"{name} is no latency table ({one_line(error)}); it needs macs_a_cycle: {{8: {{2: 2.5}}}}"
        ) from None
    for a in activation_bits:
        for p in precisions:
            if p and not table.get(a, {}).get(p, 0) > 0:
                raise RecipeError(f"the latency table {name} has no number for {p} bits by {a} bits of activations")
    return table


def alive(shares_of_zero: Sequence[Tensor], whole: int) -> Tensor:
    """How many inputs are there: those that cannot leave, and of the others what is not in the share of 0 bits; no gradient."""
    left = torch.tensor(float(whole), dtype=torch.float64)
    for zero in shares_of_zero:
        left = left + (1 - zero.detach().double()).sum().cpu()
    return left
