"""Least squares from sums over batches: the memory it takes does not grow with the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Sums over T positions of inputs X ``[d, T]`` and outputs P ``[m, T]``, float64.

    Attributes:
        count: T.
        squares: ``X X^T``.
        products: ``P X^T``.
        inputs, outputs: X and P summed over the positions.
        outputs_squared: ``|P|^2`` of each output.
    """

    count: int
    squares: Tensor
    products: Tensor
    inputs: Tensor
    outputs: Tensor
    outputs_squared: Tensor


class NormalEquations:
    """Sums of products of patches and of what a layer's outputs lack, of any number of batches; one problem for each group.

    They are float64, ``[groups, d, d]`` and ``[groups, d, filters]`` for d inputs of a filter.
    """

    def __init__(self) -> None:
        self.count = 0
        self._squares: Tensor | None = None
        self._products = self._of_inputs = self._of_missing = torch.zeros(())
        self._missing_squared = torch.zeros(())

    def add(self, patches: Tensor, missing: Tensor) -> None:
        """More columns: ``[groups, d, positions]``, and ``[groups, filters, positions]`` that a change of the weight is to give."""
        if self._squares is None:
            groups, inputs, filters = patches.shape[0], patches.shape[1], missing.shape[1]
            zeros = torch.zeros(groups, inputs, inputs + filters + 1, dtype=torch.float64, device=patches.device)
            self._squares, self._products, sums = zeros.split((inputs, filters, 1), dim=2)
            self._of_inputs = sums.squeeze(2)
            self._of_missing = torch.zeros(groups, filters, dtype=torch.float64, device=patches.device)
            self._missing_squared = torch.zeros_like(self._of_missing)
        self.count += patches.shape[2]
        self._squares += patches @ patches.mT
        self._products += patches @ missing.mT
        self._of_inputs += patches.sum(2, dtype=torch.float64)
        self._of_missing += missing.sum(2, dtype=torch.float64)
        self._missing_squared += missing.square().sum(2, dtype=torch.float64)

    def solve(self, ridge: float, constant: bool) -> tuple[Tensor, Tensor]:
        """The change ``[groups, filters, d]`` of the weight and the constant ``[groups, filters]`` of least squared error.

        The change itself is held small: ``min |missing - change @ patches - constant|^2 + lambda |change|^2``, with lambda
        ``ridge`` times the mean square of an input, summed over the positions. Where nothing was seen of an input its weight
        stays, also without a ridge.

        Args:
            ridge: at least 0.
            constant: whether there is one; else it is 0.
        """
        assert self._squares is not None
        squares, products = self._squares, self._products
        if constant:  # of deviations from the means
            squares = squares - self._of_inputs[:, :, None] * self._of_inputs[:, None, :] / self.count
            products = products - self._of_inputs[:, :, None] * self._of_missing[:, None, :] / self.count
        mean_square = squares.diagonal(dim1=1, dim2=2).mean(1)
        penalty = (ridge * mean_square)[:, None, None] * torch.eye(
            squares.shape[1], dtype=squares.dtype, device=squares.device
        )
        change = _solved(squares + penalty, products).mT
        if not constant:
            return change, torch.zeros_like(self._of_missing)
        return change, (self._of_missing - (change @ self._of_inputs[:, :, None]).squeeze(2)) / self.count

    def error(self, change: Tensor, constant: Tensor) -> float:
        """Mean squared error of an output that is left with a change of the weight, ``[groups, filters, d]``, and constant."""
        assert self._squares is not None
        explained = 2 * (change.mT * self._products).sum() + 2 * (constant * self._of_missing).sum()
        own = ((change @ self._squares) * change).sum() + self.count * constant.square().sum()
        crossed = 2 * (constant * (change @ self._of_inputs[:, :, None]).squeeze(2)).sum()
        outputs = self.count * constant.numel()
        return max(0.0, float(self._missing_squared.sum() - explained + own + crossed)) / outputs

    def without(self, columns: Tensor, weight: Tensor) -> NormalEquations:
        """The problem that is left once some inputs of a single group have left, and what they gave is missing, too.

        Args:
            columns: bool ``[d]``, True for the inputs that leave.
            weight: ``[1, filters, d]``, the present one.
        """
        assert self._squares is not None and len(self._squares) == 1
        stay, gave = ~columns, weight.double()[:, :, columns]
        made = NormalEquations()
        made.count = self.count
        made._squares = self._squares[:, stay][:, :, stay]
        made._products = self._products[:, stay] + self._squares[:, stay][:, :, columns] @ gave.mT
        made._of_inputs = self._of_inputs[:, stay]
        made._of_missing = self._of_missing + (gave @ self._of_inputs[:, columns, None]).squeeze(2)
        inside = ((gave @ self._squares[:, columns][:, :, columns]) * gave).sum(2)
        made._missing_squared = self._missing_squared + 2 * (gave * self._products[:, columns].mT).sum(2) + inside
        return made

    def moments(self, weight: Tensor) -> Moments:
        """Of the inputs of a single group, and of the outputs that are wanted, without the constant that the layer adds itself.

        Args:
            weight: ``[1, filters, d]``, the present one.
        """
        assert self._squares is not None and len(self._squares) == 1
        whole, squares = weight.double()[0], self._squares[0]
        products = self._products[0].mT + whole @ squares
        squared = (
            self._missing_squared[0] + 2 * (whole * self._products[0].mT).sum(1) + ((whole @ squares) * whole).sum(1)
        )
        outputs = self._of_missing[0] + whole @ self._of_inputs[0]
        return Moments(self.count, squares, products, self._of_inputs[0], outputs, squared)

    @property
    def missing(self) -> float:
        """The mean squared error of an output as long as nothing changes."""
        return float(self._missing_squared.sum()) / (self.count * self._of_missing.numel())


def _solved(squares: Tensor, products: Tensor) -> Tensor:
    """``squares^-1 products``; of the shortest solutions the one where there are many."""
    factor, failed = torch.linalg.cholesky_ex(squares)
    diagonal = factor.diagonal(dim1=1, dim2=2)
    steep = diagonal.amin(1) <= 1e-7 * diagonal.amax(1)  # what is left of rounding where the matrix is singular
    if not bool((failed != 0).any() | steep.any()):
        exact: Tensor = torch.cholesky_solve(products, factor)
        return exact
    values, vectors = torch.linalg.eigh(squares)
    worth = values > values[:, -1:].clamp(min=0) * squares.shape[1] * torch.finfo(values.dtype).eps
    inverse = torch.where(worth, 1 / torch.where(worth, values, 1), 0)
    shortest: Tensor = vectors @ (inverse[:, :, None] * (vectors.mT @ products))
    return shortest
