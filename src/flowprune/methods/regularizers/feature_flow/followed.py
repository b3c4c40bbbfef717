"""A model whose features are taken down point by point: what the flow's penalty and its profile both stand on."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import nn

from flowprune.engine.interfaces import Regularizer
from flowprune.errors import ModelError
from flowprune.methods.regularizers.feature_flow.description import described
from flowprune.methods.regularizers.feature_flow.finding import find_trajectory, finder, layout_or_names
from flowprune.methods.regularizers.feature_flow.maps.trajectory import Trajectory
from flowprune.methods.regularizers.feature_flow.points.points import Point
from flowprune.methods.regularizers.feature_flow.points.recording import Recorder
from flowprune.methods.regularizers.feature_flow.profile import FlowProfile, measure_flow


class Followed(Regularizer):
    """The points of a model, found in its first forward or from example inputs, and hooks that take the features down.

    Args:
        root: the plain model.
        points: "blocks", "layers" or names of modules.
        across: "skip", "project" or None.
        inputs: example inputs to find the points at once.
    """

    def __init__(
        self,
        root: nn.Module,
        points: Literal["blocks", "layers"] | Sequence[str],
        across: Literal["skip", "project"] | None,
        inputs: Any,
    ) -> None:
        self._root = root
        self._chosen = layout_or_names(points, root)
        self._across = across
        self._trajectory: list[Trajectory] = []
        # Before there are hooks, which would stay where it fails.
        given = None if inputs is None else self._find(inputs)
        self._recorder = Recorder(root, finder(root, weakref.WeakMethod(self._find)))
        self._closing = weakref.finalize(self, self._recorder.close)
        if given is not None:
            self._recorder.place(given)

    def forget(self) -> None:
        """Drop the forwards since the last ``penalty()``: the next one starts anew, whatever ran before."""
        self._recorder.take()

    def profile(self, batches: Iterable[Any]) -> FlowProfile:
        """Measure the flow: per point |Y|, |d|, |d| / |Y|, curvature, angle and silent channels.

        The model runs in evaluation mode without gradients and is put back as it was.

        Args:
            batches: inputs, or (input, target) pairs, or dictionaries of keyword arguments; read once.

        Raises:
            DataError: if there is no batch, or it holds no tensor.
        """
        self._check_open()
        return measure_flow(self._root, self._recorder, self._trajectory, batches)

    @property
    def points(self) -> tuple[Point, ...]:
        """The points, in order.

        Raises:
            ModelError: before the first forward, unless ``inputs`` were given.
        """
        return self._found().points

    def __str__(self) -> str:
        """One line a point: its name, what it is, where it is taken down; and what does not enter.

        Raises:
            ModelError: before the first forward, unless ``inputs`` were given.
        """
        return described(self._found())

    @property
    def left_out(self) -> dict[str, str]:
        """What does not enter: "point -> point" (as of the last penalty or profile) or a point out of reach, and the reason."""
        return dict(self._found().left_out)

    def close(self) -> None:
        """Remove every hook from the model. Closing twice is fine."""
        self._closing()

    def _find(self, inputs: Any) -> Sequence[Point]:
        trajectory, points = find_trajectory(self._root, inputs, self._chosen, self._across)
        self._trajectory[:] = [trajectory]
        self._met(trajectory, inputs)
        return points

    def _met(self, trajectory: Trajectory, inputs: Any) -> None:
        """The points have been found on these inputs."""

    def _found(self) -> Trajectory:
        if not self._trajectory:
            raise ModelError(
                "the points of the feature flow are found in the model's first forward; run it once, or pass inputs= to FeatureFlow"
            )
        return self._trajectory[0]

    def _check_open(self) -> None:
        if not self._closing.alive:
            raise ModelError("this feature flow was closed; build a new one")
