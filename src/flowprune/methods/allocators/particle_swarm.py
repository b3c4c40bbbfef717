"""Widths that a swarm refines by short trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn

from flowprune.engine.interfaces import AllocationProblem, Levels
from flowprune.errors import DataError, FlowpruneError, checked_name
from flowprune.methods.allocators._levels.proportions import levels_in_proportion
from flowprune.methods.allocators._swarm.moves import Vector, original_move, textbook_move
from flowprune.methods.allocators._swarm.swarm import Swarm
from flowprune.methods.allocators.map_clusters import MapClusters
from flowprune.methods.allocators.registry import REGISTRY

Steps = Literal["textbook", "original"]
CHANGED = 8
"""How many widths of a particle the authors' steps change."""


@REGISTRY.register("particle_swarm")
class ParticleSwarm:
    """A particle swarm around the counts of ``map_clusters``, whose fitness is the accuracy after a short training (ACP).

    Chang et al., Automatic Channel Pruning via Clustering and Swarm Intelligence Optimization, Applied Intelligence 2022, arXiv
    2101.06407. Needs data: yes, training images. Labels: by the trainings. Each candidate is a real cut; the channels that stay
    are those the importance says (theirs: random ones, or the largest by L1).

    In the paper nothing holds a particle to a budget, and a wider one is fitter. Here a particle's widths are proportions, and the
    budget says their size, so that every candidate that is trained costs the same. Each cut is trained once: ``known`` has the
    fitness of those that were. The paper's equations are used as its references have them; ``steps="original"`` takes the steps of
    the authors' code, which writes velocities to other widths than it moves, never moves the last, and fits fixtures of it.

    Args:
        batches: as ``map_clusters`` takes them.
        accuracy: trains a cut network for a little while and says how good it is on images that it did not see, but none of the
            test set. A recipe hands it in (``pruning.between`` says how long); the network may be changed.
        known: widths, as text, -> fitness: asked before anything is trained, and told of every training.
        particles, cycles: the paper's.
        steps: "textbook" or "original".
        seed: of the swarm.
        eps, least: as ``map_clusters`` takes them.

    Raises:
        FlowpruneError: an option is none of these.
    """

    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        accuracy: Callable[[nn.Module], float] | None = None,
        known: MutableMapping[str, float] | None = None,
        particles: int = 10,
        cycles: int = 8,
        steps: Steps = "textbook",
        seed: int = 0,
        eps: float | None = None,
        least: int = 5,
    ) -> None:
        for name, number in (("particles", particles), ("cycles", cycles)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise FlowpruneError(f"{name}={number!r} is no number of {name}; use a whole number of at least 1")
        self.start = MapClusters(batches, eps=eps, least=least)
        self.accuracy = accuracy
        self.known: MutableMapping[str, float] = {} if known is None else known
        self.particles, self.cycles, self.seed = particles, cycles, seed
        self.steps = checked_name("steps", steps, ("textbook", "original"))

    def __call__(self, problem: AllocationProblem) -> Levels:
        """The fittest levels that were tried; never above the target.

        Raises:
            DataError: nobody trains.
            BudgetError, UnreachableBudgetError, ModelError: as ``MapClusters``.
        """
        accuracy = self.accuracy
        if accuracy is None:
            raise DataError(
                "particle_swarm trains its candidates: run it in a recipe, or give accuracy= a function that trains a network"
            )

        def fitness(position: Vector) -> float:
            levels = levels_in_proportion(problem, position)
            key = ",".join(str(width) for width in (problem.sizes - levels).tolist())
            if key not in self.known:
                self.known[key] = accuracy(problem.probe(levels))
            return self.known[key]

        widths = self.start.widths(problem)
        swarm = Swarm(
            widths, problem.sizes.astype(np.float64), fitness, self.particles, np.random.default_rng(self.seed)
        )
        move = textbook_move if self.steps == "textbook" else original_move(CHANGED)
        for number in range(self.cycles):
            swarm.cycle(number, self.cycles, move)
        return levels_in_proportion(problem, swarm.best)
