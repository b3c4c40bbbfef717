"""Connected graphs in which every node has as many neighbours, and the search for one with short paths."""

from __future__ import annotations

import math
import random

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from flowprune.errors import FlowpruneError

Adjacency = NDArray[np.bool_]
"""``[nodes, nodes]``, symmetric, nothing on its diagonal."""


def check_regular(nodes: int, degree: int) -> None:
    """Raise a ``FlowpruneError`` where there is no connected regular graph of such a size."""
    for name, value in (("nodes", nodes), ("degree", degree)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise FlowpruneError(f"{name}={value!r} is not a whole number")
    if not 2 <= degree < nodes:
        raise FlowpruneError(f"degree={degree} is not possible with nodes={nodes}: use 2 to {nodes - 1}")
    if nodes * degree % 2:
        raise FlowpruneError(
            f"nodes={nodes} and degree={degree} are both odd, and no regular graph is: change one of them"
        )


def ring(nodes: int, degree: int) -> Adjacency:
    """Every node beside its ``degree`` nearest on a circle; with an odd degree also joined with the one opposite."""
    check_regular(nodes, degree)
    offsets = [*range(1, degree // 2 + 1), *([nodes // 2] if degree % 2 else [])]
    return _matrix(nx.circulant_graph(nodes, offsets))


def random_regular(nodes: int, degree: int, seed: int = 0) -> Adjacency:
    """A connected regular graph by chance; same seed, same graph."""
    check_regular(nodes, degree)
    draws = random.Random(seed)
    while True:  # nearly every one is connected from degree 3 on
        graph = nx.random_regular_graph(degree, nodes, seed=draws.getrandbits(32))
        if nx.is_connected(graph):
            return _matrix(graph)


def mean_path(adjacency: Adjacency) -> float:
    """The mean length of the shortest paths between two nodes, ``inf`` where there is none between some."""
    nodes = len(adjacency)
    edges = adjacency.astype(np.float32)  # float: so that the product is one of a fast library's
    reached, last = np.eye(nodes, dtype=bool) | adjacency, adjacency
    total = float(np.count_nonzero(adjacency))
    length = 1.0
    while last.any() and not reached.all():
        length += 1
        last = (last @ edges > 0) & ~reached
        reached |= last
        total += length * np.count_nonzero(last)
    return total / (nodes * (nodes - 1)) if reached.all() else math.inf


def with_shorter_paths(adjacency: Adjacency, seed: int = 0, tries: int | None = None) -> Adjacency:
    """The graph after a search by swaps of edges: as many neighbours for each node, no longer paths, still connected.

    Li et al., Regular Graph Pruning, TNNLS 2023, arXiv 2110.15192: edges s1-t1 and s2-t2 become s1-t2 and s2-t1, where these are
    not there yet, n (n - 1) times. A swap is kept where the mean shortest path does not grow by it. (The authors' code compares
    every candidate with the graph it began with, and refuses gains above 0.02, so that a ring never moves.)

    Args:
        adjacency: a connected graph; left as it is.
        seed: of the choice of edges.
        tries: swaps to look at; n (n - 1) if None.
    """
    found = adjacency.copy()
    nodes = len(found)
    draws = random.Random(seed)
    shortest = mean_path(found)
    for _ in range(nodes * (nodes - 1) if tries is None else tries):
        first, second = draws.sample(range(nodes), 2)
        beside_first, beside_second = (draws.choice(np.flatnonzero(found[one]).tolist()) for one in (first, second))
        four = len({first, second, beside_first, beside_second}) == 4
        if not four or found[first, beside_second] or found[second, beside_first]:
            continue
        swap = [(first, beside_first), (second, beside_second), (first, beside_second), (second, beside_first)]
        _toggle(found, swap)
        length = mean_path(found)
        if length <= shortest:
            shortest = length
        else:
            _toggle(found, swap)
    return found


def _matrix(graph: nx.Graph) -> Adjacency:
    adjacency: Adjacency = nx.to_numpy_array(graph, nodelist=range(len(graph))) > 0
    return adjacency


def _toggle(adjacency: Adjacency, edges: list[tuple[int, int]]) -> None:
    for one, other in edges:
        adjacency[one, other] ^= True
        adjacency[other, one] ^= True
