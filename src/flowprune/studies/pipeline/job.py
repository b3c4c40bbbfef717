"""What a run works on: a checked recipe, its data, and its networks."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from flowprune.engine.measuring import check_finite
from flowprune.engine.measuring.filter_scales import DEAD_BELOW
from flowprune.engine.planning import Request
from flowprune.engine.planning.falling_short import attempts
from flowprune.errors import RecipeError
from flowprune.methods.importance import Random
from flowprune.models import create, takes_classes
from flowprune.pruning import plan_as_asked
from flowprune.studies.pipeline.criteria import importance_from
from flowprune.studies.recipe import BudgetSection, DataSection, NetworkSection, PruningSection, Recipe
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

    def request(self, section: PruningSection, budget: BudgetSection) -> Request:
        """What ``plan`` is asked for: the section's request with, but for a threshold, the recipe's criterion with its images."""
        request = section.request(budget)
        if budget.kind == "threshold":
            return request

        def batches() -> list[tuple[Tensor, Tensor]]:
            return list(
                self.data.batches(
                    "train", batch_size=section.batch_size, count=section.batches, seed=self.recipe.training.seed
                )
            )

        criterion = importance_from(section.importance.name, section.importance.options, batches)
        return replace(request, importance=criterion)

    def macs_left(self, model: nn.Module) -> float:
        """The share of the model's MACs that a cut of what is dead in it now would leave."""
        section = self.recipe.pruning
        dead = BudgetSection(threshold=DEAD_BELOW)
        asked = dead if section is None else next((b for b in section.budgets if b.kind == "threshold"), dead)
        request = Request.of(**dead.options()) if section is None else section.request(asked)
        with attempts():
            made = plan_as_asked(model, self.example(), request)
        before, after = made.macs
        return after / max(1, before)

    def check(self) -> None:
        """Find out now, not after hours of training, that something cannot work.

        Builds every network once, runs it on an image, and plans a cut of it by chance to every budget: whether a budget can
        be met is a matter of the architecture.

        Raises:
            FlowpruneError: of the kind the run would have ended with.
        """
        recipe = self.recipe
        section = recipe.pruning
        if section is not None:
            importance_from(section.importance.name, section.importance.options, list)
            for budget in section.budgets:
                section.request(budget)
        for network in recipe.networks:
            model = self.build(network)
            check_finite(model)
            logits = _try_forward(model, self.example(), network.name)
            if logits.dim() != 2 or logits.shape[1] < self.data.classes:
                raise RecipeError(
                    f"networks: {network.name} gives an output of shape {list(logits.shape)}, {self.data.name} needs "
                    f"[images, {self.data.classes}]; set its classes"
                )
            if recipe.flow is not None and recipe.flow.target_macs is not None:
                self.macs_left(model)
            for budget in section.budgets if section is not None else ():
                if section is not None and budget.kind in ("macs", "params", "channels"):
                    with attempts():
                        plan_as_asked(model, self.example(), replace(section.request(budget), importance=Random()))


def data_of(section: DataSection, data_dir: str | Path | None, seed: int) -> Data:
    """The data set of a recipe; ``seed`` draws its subset. Raises as ``load_data``."""
    return load_data(**section.model_dump(), data_dir=data_dir, seed=seed)


def slug(*parts: str | None) -> str:
    """A file name from names: "resnet8-ffr-macs=0.5"."""
    return "-".join(re.sub(r"[^\w.=]+", "_", part) for part in parts if part)


def _try_forward(model: nn.Module, x: Tensor, name: str) -> Tensor:
    mode = model.training
    try:
        with torch.no_grad():
            found: Tensor = model.eval()(x)
        return found
    except (RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(
            f"networks: {name} does not run on an image of shape {list(x.shape[1:])} ({reason}); set its options, "
            "for example in_channels"
        ) from error
    finally:
        model.train(mode)
