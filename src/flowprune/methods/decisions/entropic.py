"""Entropic sparsification as a decision: what a recipe's cut takes for a training's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import nn

from flowprune.engine.interfaces import Outcome
from flowprune.methods.decisions.registry import REGISTRY
from flowprune.methods.recovery import EntropicRegression, sparsify_entropically
from flowprune.methods.recovery.entropic_regression import Entropy


@REGISTRY.register("entropic")
class Entropic:
    """Channels that hardly count in an entropic regression of the layers that read them leave, and these layers are refitted.

    Generalized Entropic Sparsification of Convolutional Neural Networks, arXiv 2404.04734; see ``sparsify_entropically`` for what
    is published of it and what is chosen, and ``EntropicRegression`` for its loss.

    Args:
        batches: calibration images; read once and kept.
        below: the share of a layer's mean weight under which a channel leaves, from 0 (nothing does) to 1.
        entropy, error, penalty: strengths of the entropy, of the error, and of the size of the coefficients.
        variance: whether channels pay for their variance, the authors' box term.
        favours: "small" entropy, as the abstract has it, or "large", as the authors' solver.
        turns: of weights and coefficients in each layer.
        ridge: of the refits.

    Raises:
        FlowpruneError: a strength is none.

    Example:
        >>> outcome = Entropic(batches, below=0.2)(model)
    """

    needs_data: ClassVar[bool] = True

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        below: float = 0.1,
        entropy: float = EntropicRegression.entropy,
        error: float = EntropicRegression.error,
        penalty: float = EntropicRegression.ridge,
        variance: bool = False,
        favours: Entropy = "small",
        turns: int = 20,
        ridge: float = 1e-3,
    ) -> None:
        self._batches = list(batches)
        self._regression = EntropicRegression(entropy, error, penalty, variance, favours)
        self._below, self._turns, self._ridge = below, turns, ridge

    def __call__(self, model: nn.Module) -> Outcome:
        """See ``sparsify_entropically``."""
        return sparsify_entropically(
            model,
            self._batches,
            below=self._below,
            regression=self._regression,
            turns=self._turns,
            ridge=self._ridge,
        )
