"""A process that has torch and the package imported and has done nothing yet: others are forked off it, and wait for no import.

It is the forkserver of ``multiprocessing``, one for every process that runs tests. What is forked off begins as a fresh process
does once it has imported everything: no parallel region was entered, no gradient taken, no random number drawn.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pkgutil

import flowprune

ROOMS = ("artifacts", "commands", "engine", "methods", "models", "reporting", "studies", "training")
ON_THE_WAY = ("accelerate", "hypothesis", "plotly.graph_objects", "pytest", "torch._dynamo", "torchvision")
"""What commands and test files import besides."""


@functools.cache
def start_method() -> str:
    """That of ``multiprocessing``, with the server told what to import; its first process starts it."""
    os.environ["OMP_NUM_THREADS"] = "1"
    modules = [*ON_THE_WAY, "flowprune.cli"]
    for room in ROOMS:
        inside = pkgutil.walk_packages([f"{flowprune.__path__[0]}/{room}"], f"flowprune.{room}.")
        modules += [module.name for module in inside]
    multiprocessing.set_forkserver_preload(modules)
    return "forkserver"
