"""What |.| is in the penalty: the choices that give k1 and k2 their meaning, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from flowprune.errors import RecipeError, checked_name
from flowprune.methods.regularizers.feature_flow.maps.magnitude import Reduction
from flowprune.methods.regularizers.feature_flow.penalty.terms import CurvatureForm

Norm = Literal[1, 2, "group", "path"]
Size = Literal["absolute", "relative", "detached"]
Weights = Literal["equal", "macs"]
PushedScales = Literal["subgradient", "proximal"]


@dataclass(frozen=True)
class Form:
    """How differences become a penalty; ``FeatureFlow`` says what the choices mean.

    Raises:
        RecipeError: for choices that do not go together.
        UnknownNameError: for one that there is none of.
    """

    norm: Norm = 1
    reduction: Reduction = "mean"
    curvature_form: CurvatureForm = "second-difference"
    size: Size = "absolute"
    weights: Weights = "equal"
    pushed_scales: PushedScales = "subgradient"
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.norm not in (1, 2, "group", "path") or isinstance(self.norm, bool):
            raise RecipeError(f'norm={self.norm!r} is none of 1, 2, "group" and "path"')
        checked_name("reduction", self.reduction, get_args(Reduction))
        checked_name("curvature_form", self.curvature_form, get_args(CurvatureForm))
        checked_name("size", self.size, get_args(Size))
        checked_name("weights", self.weights, get_args(Weights))
        checked_name("pushed_scales", self.pushed_scales, get_args(PushedScales))
        if not self.by_channels and self.weights != "equal":
            raise RecipeError('weights="macs" weighs channels; it needs norm="group" or norm="path"')
        if self.by_channels and self.curvature_form == "angle":
            raise RecipeError(f'the angle is one of whole images; with norm="{self.norm}" leave curvature_form= out')
        if self.compiled and not (self.plain and self.norm == 1):
            raise RecipeError('compiled=True is for norm=1 and size="absolute"; all others are left to autograd')
        if self.norm == "path" and self.reduction == "sum":
            raise RecipeError(
                'the points of a path have different numbers of positions; use reduction="channel" or "mean"'
            )

    @property
    def by_channels(self) -> bool:
        """Whether a channel is one group over all images and positions."""
        return self.norm in ("group", "path")

    @property
    def plain(self) -> bool:
        """Whether it is a sum of sizes of differences and nothing else, which can be made piece by piece."""
        return not self.by_channels and self.size == "absolute"

    @property
    def needs_ways(self) -> bool:
        """Whether it must be known which channels of the points are one."""
        return self.norm == "path" or self.weights == "macs"
