"""The sections of a recipe: a network, data, a flow, a criterion, a budget, and how a network is cut."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from flowprune.engine.allocation import KINDS, checked_shares
from flowprune.engine.interfaces import Outcome
from flowprune.engine.planning.request import LARGEST_CUT, SHARED_OUT, Request
from flowprune.engine.signatures import Branches, Heads, Scope
from flowprune.errors import BudgetError, RecipeError
from flowprune.methods.regularizers.feature_flow.form import Norm, PushedScales, Size, Weights
from flowprune.methods.regularizers.feature_flow.maps.magnitude import Reduction
from flowprune.methods.regularizers.feature_flow.penalty.terms import CurvatureForm
from flowprune.methods.regularizers.strength.control import Schedule
from flowprune.methods.regularizers.strength.given_strength import strength_of
from flowprune.registry import from_per_cent
from flowprune.training.settings import TrainingSettings


def _strength(value: object) -> object:
    """YAML reads 5e-2 as text; a text that is a number is meant as one. With a unit ("5%", "0.5 pull") it stays as it is."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    try:
        strength_of(value, "strength")  # type: ignore[arg-type]
    except RecipeError as error:
        raise ValueError(str(error)) from error
    return value


Share = Annotated[float, BeforeValidator(from_per_cent)]
"""Also ``50%``, wherever a share is."""
Strength = Annotated[float | str, BeforeValidator(_strength)]


class Section(BaseModel):
    """A part of a recipe: every key is known, and nothing changes once it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class NetworkSection(Section):
    """A network: what ``flowprune.models.create`` takes. ``classes: null`` means as many as the data has."""

    name: str
    classes: int | None = Field(default=None, ge=1)
    weights: str | None = None
    options: dict[str, Any] = {}


class DataSection(Section):
    """The images: what ``flowprune.training.load_data`` takes. ``normalize: null`` means the data set's usual one."""

    name: str
    normalize: str | tuple[tuple[float, ...], tuple[float, ...]] | None = None
    subset: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    workers: int = Field(default=0, ge=0)
    unreadable: Literal["refuse", "skip"] = "refuse"


class FlowSection(Section):
    """Feature flow regularization: what ``flowprune.FeatureFlow`` takes; the epochs are those of the training.

    Attributes:
        schedule: how the strength goes over the epochs, without a target.
        target_dead: the share of dead filters to end with.
        target_macs: the share of the MACs that a cut of what is dead shall leave in the end. Measured once an epoch by a plan with
            the recipe's first budget that is a threshold, or 0.01, and the options of its ``pruning`` section.
    """

    gradient: Strength | None = "5%"
    curvature: Strength | None = "5%"
    points: Literal["blocks", "layers"] | list[str] = "blocks"
    norm: Norm = 1
    across: Literal["project", "skip"] | None = None
    reduction: Reduction = "mean"
    curvature_form: CurvatureForm = "second-difference"
    size: Size = "absolute"
    weights: Weights = "equal"
    pushed_scales: PushedScales = "subgradient"
    compiled: bool = False
    schedule: Schedule = "constant"
    target_dead: Share | None = Field(default=None, gt=0, lt=1)
    target_macs: Share | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_rule(self) -> FlowSection:
        if self.target_dead is not None and self.target_macs is not None:
            raise ValueError("give target_dead or target_macs, not both")
        target = "target_dead" if self.target_dead is not None else "target_macs"
        if getattr(self, target) is not None and self.schedule != "constant":
            raise ValueError(f"{target} sets the strength by itself; leave schedule out")
        return self

    @property
    def by_epochs(self) -> bool:
        """Whether the strength changes from epoch to epoch."""
        return self.schedule != "constant" or self.target_dead is not None or self.target_macs is not None

    def options(self, epochs: int) -> dict[str, Any]:
        """Keyword arguments for ``FeatureFlow`` in a training of so many epochs."""
        # Without need for it, none: that is what the checkpoint of a flow of constant strength says.
        return {**self.model_dump(), "epochs": epochs if self.by_epochs else None}


class ImportanceSection(Section):
    """A criterion by its registered name, and its options."""

    name: str = "l2"
    options: dict[str, Any] = {}


BUDGETS = (*KINDS, "weights", "bytes")
"""What a budget may count: of a cut, of a mask, of a quantizer."""


class BudgetSection(Section):
    """What is kept: exactly one of these, as ``flowprune.plan``, ``mask`` (``weights``) and ``quantize`` (``bytes``) take it."""

    macs: float | str | None = None
    params: float | str | None = None
    channels: Share | dict[str, Share] | None = None
    threshold: Share | None = None
    latency: float | str | None = None
    weights: Share | str | dict[str, Share] | None = None
    bytes: Share | str | None = None
    scope: Scope = "global"

    @model_validator(mode="after")
    def _one(self) -> BudgetSection:
        given = [key for key in BUDGETS if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"a budget is exactly one of {', '.join(BUDGETS)}")
        return self

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(key for key in BUDGETS if getattr(self, key) is not None)

    def options(self) -> dict[str, Any]:
        """Keyword arguments for ``plan``: the budget, and the scope where it has a meaning."""
        chosen = {self.kind: getattr(self, self.kind)}
        return {**chosen, "scope": self.scope} if self.kind in ("macs", "params", "latency") else chosen

    def __str__(self) -> str:
        return f"{self.kind}={getattr(self, self.kind)}"


class PruningSection(Section):
    """How each trained network is cut: once to every budget, always from the same dense one.

    Attributes:
        budgets: the targets.
        importance: the criterion; ``threshold`` needs none and takes none.
        allocator: who says how many channels leave where under ``macs``, ``params`` or ``latency``, by its registered name, asked
            anew in each of several steps; the rank of all channels if None.
        allocator_options: of the allocator's constructor.
        largest_cut: the largest share of a group's channels that may leave, but under a threshold; or pattern of layers -> share.
        round_to, fold_tolerance, heads, ignore, freeze, branches: see ``flowprune.plan``.
        steps: how many cuts lead to a budget, but to a threshold.
        between: how the network is trained between them, or the candidates of an allocator that trains; None trains as
            ``finetuning`` says.
        batches, batch_size: how many training images data-driven criteria and allocators see.
    """

    kinds: ClassVar[tuple[str, ...]] = KINDS
    budgets: list[BudgetSection] = Field(min_length=1)
    importance: ImportanceSection = ImportanceSection()
    allocator: str | None = None
    allocator_options: dict[str, Any] = {}
    largest_cut: Share | dict[str, Share] = LARGEST_CUT
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    fold_tolerance: float = Field(default=Request.fold_tolerance, ge=0)
    heads: Heads = "whole"
    ignore: list[str] = []
    freeze: dict[str, int | list[int]] = {}
    branches: Branches = False
    steps: int = Field(default=1, ge=1)
    between: TrainingSettings | None = None
    batches: int = Field(default=5, ge=1)
    batch_size: int = Field(default=128, ge=1)

    @model_validator(mode="after")
    def _coherent(self) -> PruningSection:
        try:
            checked_shares(self.largest_cut, "largest_cut")
        except BudgetError as error:
            raise ValueError(str(error)) from error
        other = next((budget for budget in self.budgets if budget.kind not in self.kinds), None)
        if other is not None:
            raise ValueError(f"{other} is no budget of a cut, which is one of {', '.join(self.kinds)}")
        self._shared_out()
        in_one = [str(budget) for budget in self.budgets if budget.kind == "threshold"]
        if self.steps > 1 and in_one:
            raise ValueError(f"{in_one[0]} cannot be met in steps; set steps to 1, or leave that budget out")
        return self

    def _shared_out(self) -> None:
        if self.allocator is None:
            if self.allocator_options:
                raise ValueError("allocator_options are for an allocator; name one as allocator, or leave them out")
            return
        other = next((budget for budget in self.budgets if budget.kind not in (*SHARED_OUT, "latency")), None)
        if other is not None:
            raise ValueError(
                f"an allocator shares out budgets of macs, params or latency, not {other}; leave one of the two out"
            )

    def request(self, budget: BudgetSection | None, outcome: Outcome | None = None) -> Request:
        """What ``plan`` is asked for, but for the criterion and the allocator.

        Args:
            budget: None where an outcome says what leaves.
            outcome: what a training decided, if that counts.

        Raises:
            BudgetError: the budget is malformed, or options go ill together.
        """
        named = {option.name for option in fields(Request)} & set(type(self).model_fields) - {"importance", "allocator"}
        asked = {} if budget is None else budget.options()
        return Request.of(**asked, **{name: getattr(self, name) for name in named}, outcome=outcome)
