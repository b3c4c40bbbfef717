"""Particles around given widths, which look for the fittest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flowprune.methods.allocators._swarm.moves import FASTEST, Move, Place, Vector

Fitness = Callable[[Vector], float]


class Swarm:
    """Widths that move towards the fittest found so far (the second step of ACP, Chang et al., arXiv 2101.06407).

    Particle i of the first population is at ``n + i s``, s in {-1, 0, 1} for each width; velocities are drawn from [-2, 2].

    Args:
        widths: [units], n: where particle 0 begins.
        widest: [units].
        fitness: the higher, the better.
        particles: how many.
        random: all numbers of chance come from here.

    Attributes:
        positions, velocities: of the particles, now.
        own_best, own_fitness: the fittest place of each so far.
        best, best_fitness: the fittest of all so far; of equals the first.
    """

    def __init__(
        self, widths: Vector, widest: Vector, fitness: Fitness, particles: int, random: np.random.Generator
    ) -> None:
        self._widest, self._fitness, self._random = widest, fitness, random
        drawn = [
            (random.integers(-1, 2, len(widths)), random.uniform(-FASTEST, FASTEST, len(widths)))
            for _ in range(particles)
        ]
        self.positions = [np.clip(np.trunc(widths + i * sign), 1, widest) for i, (sign, _) in enumerate(drawn)]
        self.velocities = [velocity for _, velocity in drawn]
        self.own_best = [position.copy() for position in self.positions]
        self.own_fitness = [fitness(position) for position in self.positions]
        leader = int(np.argmax(self.own_fitness))
        self.best, self.best_fitness = self.own_best[leader].copy(), self.own_fitness[leader]

    def cycle(self, number: int, of: int, move: Move) -> None:
        """Every particle moves once, one after the other: what one finds, the next already knows.

        Args:
            number: of the cycle, from 0; the inertia falls from 0.6 to 0.4 over them.
            of: how many cycles there are.
            move: how.
        """
        inertia = 0.4 + 0.2 * (of - number) / of
        for i in range(len(self.positions)):
            place = Place(self.positions[i], self.velocities[i], self.own_best[i], self.best, inertia)
            self.positions[i], self.velocities[i] = move(place, self._widest, self._random)
            fitness = self._fitness(self.positions[i])
            if fitness > self.own_fitness[i]:
                self.own_best[i], self.own_fitness[i] = self.positions[i].copy(), fitness
            if fitness > self.best_fitness:
                self.best, self.best_fitness = self.positions[i].copy(), fitness
