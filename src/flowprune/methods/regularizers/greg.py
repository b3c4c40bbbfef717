"""GReg-1, growing regularization: what TPP does without its decorrelation, on weights and biases alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from flowprune.methods.regularizers.registry import REGISTRY
from flowprune.methods.regularizers.strength.coupled_channels import Place
from flowprune.methods.regularizers.tpp import TPP


@REGISTRY.register("greg")
class GReg(TPP):
    """GReg-1: the filters with the smallest mean |W| are pulled to zero by an L2 penalty that grows with the steps.

    Wang, Qin, Zhang and Fu, "Neural Pruning via Growing Regularization", ICLR 2021, arXiv 2012.09243: the variant with a uniform
    growing penalty. At every step the gradient of the chosen filters' weights and biases gets lambda(t) times their values; batch
    norms are left alone, until the filter is zeroed with all that makes its channel. Options, ends and errors are ``TPP``'s.

    **Where we differ from the authors' code.** What is compared is the growing penalty as it stands in the code of TPP, by the same
    first author: which filters are chosen, the staircase of lambda, the pull on weights and biases. GReg's own repository is not
    compared. The zeroing of one layer after the other at the end of the training is TPP's, with the differences listed there, so
    that the cut changes nothing. Where several layers make a channel its mean |W| is that of all their filters together, and they
    are pulled together. GReg-2, in which all filters are pulled and the weakest found on the way, is not here.

    ::

        train(model, data, settings, regularizer=GReg(model, inputs=images[:1], ratio={"layer1.*.conv1": 0.3}))
    """

    name: ClassVar[str] = "greg"

    def __init__(
        self,
        model: nn.Module,
        *,
        inputs: Any = None,
        ratio: float | Mapping[str, float] = 0.5,
        delta: float | None = None,
        every: int = 10,
        limit: float = 1.0,
        zero_every: int | None = None,
    ) -> None:
        options: dict[str, Any] = {"delta": delta, "every": every, "limit": limit, "zero_every": zero_every}
        super().__init__(model, inputs=inputs, ratio=ratio, decorrelation=0.0, **options)

    def _pulls(self, place: Place) -> bool:
        return place.role != "normalization"
