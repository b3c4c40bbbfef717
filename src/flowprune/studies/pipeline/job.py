"""What a run works on: a checked recipe, its data, and its networks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from flowprune.engine.measuring import check_finite
from flowprune.engine.measuring.evaluation_mode import evaluating
from flowprune.errors import RecipeError, one_line
from flowprune.models import create, takes_classes
from flowprune.studies.phases import CutPhase
from flowprune.studies.phases.criteria import importance_from
from flowprune.studies.recipe import Recipe
from flowprune.studies.sections import DataSection, NetworkSection
from flowprune.training import Data, load_data


@dataclass(frozen=True)
class Job:
    """A recipe with its data, on a device."""

    recipe: Recipe
    data: Data
    device: torch.device

    def build(self, network: NetworkSection, seed: int | None = None) -> nn.Module:
        """The dense network with the starting weights of the recipe's seed, or another: the same for every method."""
        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.training.seed if seed is None else seed)
            classes = network.classes
            if classes is None and takes_classes(network.name):
                classes = self.data.classes
            model = create(network.name, classes=classes, weights=network.weights, **network.options)
        return model.to(self.device)

    def example(self) -> Tensor:
        """One image, on the device."""
        return self.data.example_input().to(self.device)

    def check(self) -> None:
        """Find out now, not after hours of training, that something cannot work.

        Builds every network once, runs it on an image, and checks every method's phases on it, up to the first that changes its
        shapes: whether regularizers can act on it, and, by a cut of chance, whether every budget can be met.

        Raises:
            FlowpruneError: of the kind the run would have ended with.
        """
        courses = [self.recipe.phases_of(method) for method in self.recipe.methods]
        for phase in (phase for phases in courses for phase in phases):
            if isinstance(phase, CutPhase):
                if not phase.by_outcome:
                    importance_from(phase.importance.name, phase.importance.options, list)
                for budget in phase.budgets:
                    phase.request(budget)
        for network in self.recipe.networks:
            model = self.build(network)
            check_finite(model)
            logits = _try_forward(model, self.example(), network.name)
            if logits.dim() != 2 or logits.shape[1] < self.data.classes:
                raise RecipeError(
                    f"networks: {network.name} gives an output of shape {list(logits.shape)}, {self.data.name} needs "
                    f"[images, {self.data.classes}]; set its classes"
                )
            checked: list[object] = []
            for phases in courses:
                for number, phase in enumerate(phases):
                    following = next((other for other in phases[number:] if isinstance(other, CutPhase)), None)
                    if (phase, following) not in checked:
                        phase.check(model, self.example(), following)
                        checked.append((phase, following))
                    if phase.changes_shape:
                        break


def data_of(section: DataSection, data_dir: str | Path | None, seed: int) -> Data:
    """The data set of a recipe; ``seed`` draws its subset. Raises as ``load_data``."""
    return load_data(**section.model_dump(), data_dir=data_dir, seed=seed)


def slug(*parts: str | None) -> str:
    """A file name from names: "resnet8-ffr-macs=0.5"."""
    return "-".join(re.sub(r"[^\w.=]+", "_", part) for part in parts if part)


def _try_forward(model: nn.Module, x: Tensor, name: str) -> Tensor:
    try:
        with evaluating(model), torch.no_grad():
            found: Tensor = model(x)
        return found
    except (RuntimeError, ValueError, TypeError) as error:
        raise RecipeError(
            f"networks: {name} does not run on an image of shape {list(x.shape[1:])} ({one_line(error, 200)}); set its options, "
            "for example in_channels"
        ) from error
