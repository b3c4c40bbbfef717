"""A phase after which weights are few values, stored by a codec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from flowprune.engine.interfaces import Regularizer
from flowprune.engine.measuring.single_weights import single_weights
from flowprune.engine.steps.lineage import lineage_of
from flowprune.methods.codecs.stored_model import stored_model
from flowprune.methods.quantizers import REGISTRY as QUANTIZERS
from flowprune.methods.quantizers import CumulativeRetraining, GridTraining, SharedValues, quantize
from flowprune.studies.phases.budgeted_phase import BudgetedPhase
from flowprune.studies.phases.working import OUTCOME, Done, Work
from flowprune.studies.sections import BudgetSection, PruningSection
from flowprune.training import TrainingSettings, evaluate, train


class QuantizePhase(BudgetedPhase):
    """Quantize the weights, to each budget by itself; with ``training``, train on with the values that they share.

    Attributes:
        quantizer: its registered name.
        options: of the quantizer; ``bits: outcome`` takes those that a training before this phase decided, and leaves what it did
            not search as it is.
        codec: the registered name of the format that the weights are stored in.
        codec_options: of the codec's constructor.
        budgets: of ``bytes``; none where ``options`` says the size (``values: 16``).
        ignore: modules, dotted names or patterns whose weights stay as they are.
        training: how the shared values, or the weights behind their grids, are trained; None leaves them as they were found.
        sums: what a shared value's step is the sum of, where they are trained: "gradients", or "changes" of single weights.
    """

    phase: Literal["quantize"] = "quantize"
    quantizer: str = "cws"
    options: dict[str, Any] = Field(default_factory=dict)
    codec: str = "huffman"
    codec_options: dict[str, Any] = Field(default_factory=dict)
    ignore: list[str] = Field(default_factory=list)
    training: TrainingSettings | None = None
    sums: Literal["gradients", "changes"] = "gradients"
    keeps: ClassVar[tuple[str, str]] = ("bytes", "0.1")
    who: ClassVar[str] = "a quantizer"
    stage: ClassVar[str] = "quantized"
    verb: ClassVar[str] = "quantize"
    changes_shape: ClassVar[bool] = False

    def check(self, model: nn.Module, example: Tensor, next_cut: PruningSection | None) -> None:
        """Quantize the untrained model, where that is a matter of options alone."""
        if not self.budgets and not self._by_outcome:
            self._quantized(model, example, None)

    def carried_out(self, model: nn.Module, work: Work, budget: BudgetSection | None = None) -> Done:
        """A model whose weights are values of one list."""
        bits = {name: own.tolist() for name, own in work.decided("bits", "bits").items()} if self._by_outcome else None
        few = self._quantized(model, work.example(), budget, bits)
        found: dict[str, Any] = {}
        if self.training is not None:
            result = train(
                few,
                work.data,
                self.training,
                run_folder=work.folder,
                regularizer=_on_grids(few, model) or _Sharing(few, self.sums),
                resume=True,
                progress=work.progress,
                title=work.title,
            )
            found = {"history": result.history}
        return Done(few, {**found, "top1": evaluate(few, work.data).top1, "extra": {"bytes": stored_model(few).size}})

    @property
    def _by_outcome(self) -> bool:
        return self.options.get("bits") == OUTCOME

    def _quantized(
        self,
        model: nn.Module,
        example: Tensor,
        budget: BudgetSection | None,
        bits: Mapping[str, list[int]] | None = None,
    ) -> nn.Module:
        unsearched = [] if bits is None else [n.rpartition(".")[0] for n in single_weights(model) if n not in bits]
        return quantize(
            model,
            example,
            quantizer=self.quantizer,
            codec=self.codec,
            bytes=None if budget is None else budget.bytes,
            ignore=[*self.ignore, *unsearched],
            codec_options=self.codec_options,
            **(self.options if bits is None else {**self.options, "bits": bits}),
        )


class _Sharing(Regularizer):
    """Retraining with shared values, as a training calls it."""

    def __init__(self, model: nn.Module, sums: Literal["gradients", "changes"]) -> None:
        self._retraining = CumulativeRetraining(model, _values_of(model), what=sums)

    def after_backward(self) -> None:
        self._retraining.after_backward()

    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        self._retraining.after_step()

    def state_dict(self) -> dict[str, Any]:
        return self._retraining.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._retraining.load_state_dict(state)


def _on_grids(few: nn.Module, model: nn.Module) -> GridTraining | None:
    """What trains the weights behind the grids of a model's last quantization, which began as those of ``model``."""
    step = next(step for step in reversed(lineage_of(few).steps) if step.kind == "quantize")
    if not getattr(QUANTIZERS[step.data["quantizer"]], "on_grids", False):
        return None
    asked = step.data["options"]["bits"]
    parameters = dict(model.named_parameters())
    bits = {
        name: torch.tensor([asked] * len(parameters[name]) if isinstance(asked, int) else asked[name])
        for name in step.data["parameters"]
    }
    return GridTraining(few, {name: parameters[name].detach() for name in bits}, bits)


def _values_of(model: nn.Module) -> SharedValues:
    """The values that the weights of a model's last quantization share; what is zero stays zero."""
    step = next(step for step in reversed(lineage_of(model).steps) if step.kind == "quantize")
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name].detach() for name in step.data["parameters"]}
    values = torch.cat([weight.double().cpu().flatten() for weight in weights.values()]).unique()
    values = values[values != 0]
    codes = {}
    for name, weight in weights.items():
        code = torch.searchsorted(values, weight.double().cpu().contiguous())
        codes[name] = torch.where(weight.cpu() == 0, -1, code).to(weight.device)
    return SharedValues(values, codes, {name: weight.dtype for name, weight in weights.items()})
