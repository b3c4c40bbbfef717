"""Regular graph pruning: which blocks of filters read which blocks of channels is a regular graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from flowprune.errors import FlowpruneError
from flowprune.methods.masks.fixed_pattern import FixedPattern
from flowprune.methods.masks.registry import REGISTRY
from flowprune.methods.masks.regular_graphs import (
    Adjacency,
    check_regular,
    random_regular,
    ring,
    with_shorter_paths,
)

Graph = Literal["searched", "random", "ring"]


@REGISTRY.register("rgp")
class RGP(FixedPattern):
    """Kernel (f, c) stays whole where the blocks of filter f and of channel c are neighbours in a regular graph, else it is zero.

    Li et al., Regular Graph Pruning, TNNLS 2023, arXiv 2110.15192; masks compared with the authors' code, the search is mended (see
    ``with_shorter_paths``). Filters and channels of every layer are cut into n blocks of equal size, or one more, and the graph's
    n x n matrix is spread over them: d / n stays of a layer that n divides in one of its dimensions, of others nearly as much.
    Convolutions of any kernel; those of fewer than n filters or channels (the stem, depthwise and narrowly grouped ones) and linear
    layers stay whole.

    Args:
        nodes: n; published: 64.
        degree: d, neighbours of each; published: 16 to 36.
        graph: "searched" for short paths from a random one, "random", or the "ring" of nearest neighbours.
        seed: of the graph.
        first_dense: the first convolution stays whole.

    Raises:
        FlowpruneError: there is no such graph.

    Example:
        >>> weight = torch.empty(4, 4, 1, 1)
        >>> RGP(nodes=4, degree=2, graph="ring", first_dense=False).select({"weight": weight})["weight"].int()[:, :, 0, 0].tolist()
        [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    """

    def __init__(
        self,
        *,
        nodes: int = 64,
        degree: int = 16,
        graph: Graph = "searched",
        seed: int = 0,
        first_dense: bool = True,
    ) -> None:
        super().__init__(first_dense=first_dense)
        check_regular(nodes, degree)
        if graph not in ("searched", "random", "ring"):
            raise FlowpruneError(f'graph={graph!r} is not known; use "searched", "random" or "ring"')
        self.nodes, self.degree, self.seed = nodes, degree, seed
        self.graph: Graph = graph

    @cached_property
    def adjacency(self) -> Adjacency:
        """The graph, ``[nodes, nodes]``; a search over 64 nodes takes seconds, and is made once."""
        if self.graph == "ring":
            return ring(self.nodes, self.degree)
        chosen = random_regular(self.nodes, self.degree, self.seed)
        return with_shorter_paths(chosen, self.seed) if self.graph == "searched" else chosen

    def table(self, kernel: tuple[int, ...]) -> torch.Tensor | None:
        """Nothing, and the whole kernel."""
        return torch.stack([torch.zeros(kernel, dtype=torch.bool), torch.ones(kernel, dtype=torch.bool)])

    def index(self, filters: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
        """1 where the blocks are neighbours, else 0, ``[F, C]``."""
        return torch.from_numpy(connections(self.adjacency, filters.numel(), channels.numel())).long()

    def settings(self) -> Iterator[FixedPattern]:
        """Every degree, in a ring: what stays depends on the degree, and next to nothing on the graph."""
        for degree in range(2, self.nodes):
            if self.nodes * degree % 2 == 0:
                yield RGP(nodes=self.nodes, degree=degree, graph="ring")

    def _tables(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
        return {name: t for name, t in super()._tables(shapes).items() if min(shapes[name][:2]) >= self.nodes}

    def __str__(self) -> str:
        return f'rgp with nodes={self.nodes}, degree={self.degree}, graph="{self.graph}"'


def connections(adjacency: Adjacency, filters: int, channels: int) -> NDArray[np.bool_]:
    """The graph's matrix spread over blocks of filters and channels, ``[filters, channels]``.

    The larger blocks are where the authors' code has them: by a permutation of numpy's with seed 1. (It sets the seed of the whole
    process; here nobody else's random numbers are moved.)
    """
    rows, columns = (block_sizes(size, len(adjacency)) for size in (filters, channels))
    spread: NDArray[np.bool_] = adjacency.repeat(rows, axis=0).repeat(columns, axis=1)
    return spread


def block_sizes(channels: int, blocks: int) -> NDArray[np.int64]:
    """How many channels each block has, ``[blocks]``."""
    sizes = np.full(blocks, channels // blocks, dtype=np.int64)
    sizes[: channels % blocks] += 1
    permuted: NDArray[np.int64] = np.random.RandomState(1).permutation(sizes)
    return permuted
