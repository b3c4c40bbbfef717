"""N:M mask: of every M neighbouring weights at most N stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from flowprune.engine.interfaces import Keep
from flowprune.errors import BudgetError, FlowpruneError
from flowprune.methods.masks.kept_weights import check_scores, checked_keep, whole_number
from flowprune.methods.masks.registry import REGISTRY


@REGISTRY.register("n_m")
class NM:
    """Of every ``m`` weights that lie side by side the ``n`` of the highest scores stay.

    Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch, ICLR 2021, arXiv 2102.04010, equation 1;
    2:4 is what sparse tensor cores multiply. Works on every weight. Where m does not divide a row, its last r weights keep
    floor(r n / m), so that no tensor keeps more than n / m. (The code of ISS-P raises m and n together until m divides every
    tensor, which asks for another sparsity than the one wanted.)

    Args:
        m: neighbours in a group.
        along: which weights are neighbours. "input": of one filter, the input channels of one position of the kernel, then the
            next position's, as matrix multiplications read them. "flat": in the order of memory, over the ends of filters, as
            ISS-P (Wang et al., ICCV 2023, arXiv 2303.09650) has it.

    Example:
        >>> NM(m=4).select({"weight": torch.tensor([[4.0, 1.0, 3.0, 2.0]])}, keep=0.5)["weight"].tolist()
        [[True, False, True, False]]
    """

    def __init__(self, *, m: int = 4, along: Literal["input", "flat"] = "input") -> None:
        if isinstance(m, bool) or not isinstance(m, int) or m < 2:
            raise FlowpruneError(f"m={m!r} is not a number of neighbours: use a whole number of at least 2")
        if along not in ("input", "flat"):
            raise FlowpruneError(f'along={along!r} is not known; use "input" or "flat"')
        self.m, self.along = m, along

    def select(self, scores: Mapping[str, torch.Tensor], keep: Keep | None = None) -> dict[str, torch.Tensor]:
        """n / m of every tensor stays, with the largest n that the budget allows; None is a half.

        A share between two of them gives single tensors one n more, those whose next weights score highest on average (each tensor
        measured by its own mean) first, as long as that fits: the budget is then met within what one n is in one tensor.

        Args:
            scores: name of the parameter -> a tensor of its shape.
            keep: a share of all weights, or of each parameter.

        Returns:
            Name -> a boolean tensor of its shape, on its device.

        Raises:
            BudgetError: less than 1 / m is asked for.
            ModelError: scores hold NaN, or there are none.
        """
        check_scores(scores)
        keep = checked_keep(0.5 if keep is None else keep, scores)
        ranks = {name: self._ranks(score.detach()) for name, score in scores.items()}
        if isinstance(keep, Mapping):
            return {name: _best(rank, whole_number(keep[name], self.m), self.m) for name, rank in ranks.items()}
        n = whole_number(keep, self.m)
        if n == 0:
            raise BudgetError(
                f"n_m keeps 1 of m={self.m} at least; weights={keep:g} is less, and the nearest is {1 / self.m:g}"
            )
        masks = {name: _best(rank, n, self.m) for name, rank in ranks.items()}
        if keep * self.m - n <= 1e-6:
            return masks
        more = {name: _best(rank, n + 1, self.m) for name, rank in ranks.items()}
        target = whole_number(keep, sum(score.numel() for score in scores.values()))
        left = target - sum(int(mask.sum()) for mask in masks.values())
        for name in sorted(scores, key=lambda name: -_worth(scores[name], more[name] & ~masks[name])):
            extra = int(more[name].sum()) - int(masks[name].sum())
            if extra <= left:
                masks[name], left = more[name], left - extra
        return masks

    def _ranks(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of every weight, in the scores' shape: its place among its neighbours (0 the best), and how many they are."""
        turned = scores.movedim(1, -1) if self.along == "input" and scores.ndim > 1 else scores.reshape(1, -1)
        rows = turned.reshape(len(turned), -1)
        width = rows.shape[1]
        padded = torch.nn.functional.pad(rows, (0, -width % self.m), value=-torch.inf).unflatten(1, (-1, self.m))
        order = padded.argsort(dim=2, descending=True, stable=True)
        places = order.argsort(dim=2).flatten(1)[:, :width]
        whole = torch.arange(width, device=rows.device) < width - width % self.m
        neighbours = torch.where(whole, self.m, width % self.m).expand(rows.shape)
        if self.along == "input" and scores.ndim > 1:
            return places.reshape(turned.shape).movedim(-1, 1), neighbours.reshape(turned.shape).movedim(-1, 1)
        return places.reshape(scores.shape), neighbours.reshape(scores.shape)


def _best(ranks: tuple[torch.Tensor, torch.Tensor], n: int, m: int) -> torch.Tensor:
    """True at the n best of every m."""
    places, neighbours = ranks
    return (places < neighbours * n // m).contiguous()


def _worth(scores: torch.Tensor, chosen: torch.Tensor) -> float:
    """Mean score of the chosen weights in units of the tensor's own mean."""
    if not chosen.any():
        return 0.0
    mean = float(scores.double().mean())
    return float(scores[chosen].double().mean()) / mean if mean > 0 else 0.0
