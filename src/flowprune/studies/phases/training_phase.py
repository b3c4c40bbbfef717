"""What the phases have in common that train: how long on which images, and what acts meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pydantic import Field
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Regularizer
from flowprune.engine.measuring.filter_scales import DEAD_BELOW
from flowprune.engine.planning import Request
from flowprune.engine.planning.falling_short import attempts
from flowprune.pruning import plan_as_asked
from flowprune.studies.phases.named_regularizers import NamedRegularizer, regularizers_on
from flowprune.studies.phases.working import Done, Work
from flowprune.studies.sections import BudgetSection, PruningSection, Section, Share
from flowprune.training import Data, TrainingSettings, train
from flowprune.training.splits import drawn


class TrainingPhase(Section):
    """A training, by itself or behind a step.

    Attributes:
        training: how; what is left out is as in the recipe's section ``training`` (of a recovery: ``finetuning``).
        regularizers: what acts meanwhile, one or several, each by its registered name and with its options.
        share: of the training images, drawn by the training's seed.
    """

    training: TrainingSettings = TrainingSettings()
    regularizers: list[NamedRegularizer] = Field(default_factory=list)
    share: Share = Field(default=1.0, gt=0, le=1)

    def check(self, model: nn.Module, example: Tensor, next_cut: PruningSection | None) -> None:
        """Find out before any training whether the regularizers can act on the model."""
        with regularizers_on(model, example, self.training.epochs, self.regularizers) as acting:
            if any("macs_left" in one.wants for one in acting):
                macs_left(model, example, next_cut)

    @property
    def targets(self) -> tuple[BudgetSection | None, ...]:
        """No budget: it is carried out once."""
        return (None,)

    def carried_out(self, model: nn.Module, work: Work, budget: BudgetSection | None = None) -> Done:
        """Train the model in place, from the checkpoint in the work's folder where there is one."""
        return self.trained(model, work, ())

    def trained(self, model: nn.Module, work: Work, beside: Sequence[Regularizer]) -> Done:
        """Train the model in place, with further regularizers beside those of the recipe."""
        data = share_of(work.data, self.share, self.training.seed)
        with regularizers_on(model, work.example(), self.training.epochs, self.regularizers) as acting:
            result = train(
                model,
                data,
                self.training,
                run_folder=work.folder,
                regularizer=[*acting, *beside],
                macs_left=_measure(model, work),
                resume=True,
                progress=work.progress,
                title=work.title,
            )
            coefficients = [found for one in acting if (found := getattr(one, "coefficients", None)) is not None]
        found = {"top1": result.top1, "extra": {"best_top1": result.best_top1}, "history": result.history}
        if coefficients:
            found["coefficients"] = coefficients[0]
        return Done(model, found, _together(result.outcomes))


def _measure(model: nn.Module, work: Work) -> Callable[[], float]:
    return lambda: macs_left(model, work.example(), work.next_cut)


def share_of(data: Data, share: float, seed: int) -> Data:
    """The data with so many of its training images, one at least; the test images are all there."""
    if share == 1:
        return data
    return replace(data, train=drawn(data.train, max(1, round(share * len(data.train))), seed))


def macs_left(model: nn.Module, example: Tensor, section: PruningSection | None) -> float:
    """The share of the model's MACs that a cut of what is dead in it now would leave.

    Args:
        model: not touched.
        example: an image.
        section: how the cut that follows is made: its first budget that is a threshold, or 0.01, with its other options.
    """
    dead = BudgetSection(threshold=DEAD_BELOW)
    asked = dead if section is None else next((b for b in section.budgets if b.kind == "threshold"), dead)
    request = Request.of(**dead.options()) if section is None else section.request(asked)
    with attempts():
        made = plan_as_asked(model, example, request)
    before, after = made.macs
    return after / max(1, before)


def _together(outcomes: tuple[Outcome, ...]) -> Outcome | None:
    """One outcome of all: where two say something of one kind, the later one's word counts."""
    kinds = ("leaves", "scores", "masks", "bits", "replacements", "weights")
    said = {kind: value for one in outcomes for kind in kinds if (value := getattr(one, kind)) is not None}
    return Outcome(**said) if said else None
