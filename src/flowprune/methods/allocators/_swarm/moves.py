"""How a particle moves: by the textbook, or as the authors' code of ACP has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
CONSTRICTION = 0.729
PULL = 2.0
FASTEST = 2.0
"""Of the paper: what every velocity is multiplied by, how strongly the best places pull, and the largest velocity."""


@dataclass(frozen=True)
class Place:
    """What a particle moves by: where it is and how fast, the best place of its own and of all, and the inertia."""

    position: Vector
    velocity: Vector
    own_best: Vector
    best: Vector
    inertia: float


Move = Callable[[Place, Vector, np.random.Generator], tuple[Vector, Vector]]
"""(where, [units] the widest, random numbers) -> position and velocity."""


def textbook_move(place: Place, widest: Vector, random: np.random.Generator) -> tuple[Vector, Vector]:
    """``v' = 0.729 (w v + 2 r1 (own - x) + 2 r2 (best - x)), x' = x + v'``; fresh r1 and r2 for every dimension, ``|v'| <= 2``.

    Kennedy and Eberhart, Particle Swarm Optimization, ICNN 1995; the constriction of Clerc and Kennedy 2002. A particle that would
    leave ``[1, widest]`` stops at the edge.
    """
    own, all_of_them = random.random(len(widest)), random.random(len(widest))
    drawn = PULL * own * (place.own_best - place.position) + PULL * all_of_them * (place.best - place.position)
    velocity = np.clip(CONSTRICTION * (place.inertia * place.velocity + drawn), -FASTEST, FASTEST)
    return np.clip(place.position + velocity, 1.0, widest), velocity


def original_move(changed: int) -> Move:
    """As particle_cifar.py of the authors' code moves, faults and all.

    ``changed`` drawn dimensions, never the last one, go by twice the velocity of before and end at whole widths, one below the
    widest where they would exceed it. The new velocity is written to the *first* ``changed`` dimensions, with one random number
    for all.
    """

    def move(place: Place, widest: Vector, random: np.random.Generator) -> tuple[Vector, Vector]:
        first = slice(0, min(changed, len(widest)))
        chosen = np.unique(random.integers(0, max(1, len(widest) - 1), changed))
        position, velocity = place.position.copy(), place.velocity.copy()
        moved = np.trunc(position[chosen] + 2 * velocity[chosen])
        edge = widest[chosen]
        position[chosen] = np.where(moved < 1, 1.0, np.where(moved > edge, np.maximum(edge - 1, 1.0), moved))
        drawn = float(random.random())
        pulled = PULL * drawn * (place.own_best - place.position) + PULL * drawn * (place.best - place.position)
        velocity[first] = (CONSTRICTION * (place.inertia * place.velocity + pulled))[first]
        velocity[first] = np.clip(velocity[first], -FASTEST, FASTEST)
        return position, velocity

    return move
