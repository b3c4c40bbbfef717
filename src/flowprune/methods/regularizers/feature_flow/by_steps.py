"""What of the flow's strength goes by the optimizer and its steps: pulls, pressures, and the proximal step on scales."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from flowprune.engine.interfaces import Training
from flowprune.errors import ModelError, RecipeError
from flowprune.methods.regularizers.feature_flow.form import Form
from flowprune.methods.regularizers.feature_flow.maps.trajectory import Trajectory
from flowprune.methods.regularizers.strength.percentages import Calibration
from flowprune.methods.regularizers.strength.proximal_push import ProximalPush
from flowprune.methods.regularizers.strength.pull import pressure_for, reach
from flowprune.methods.regularizers.strength.step_hooks import before_step
from flowprune.methods.regularizers.strength.task_force import STEPS, TaskForce

PUSH: dict[Any, float] = {1: 0.8, 2: 1.0, "group": 1.0}
"""What a gradient term with coefficient 1, one channel and the norm presses a scale with: E|x| of a normalised feature, or its root
mean square. Where a ReLU clips it is less."""
CURVATURE = 2.0
"""How much of that a curvature term presses at most, at equal scales of the neighbours."""


class BySteps:
    """The scales that the penalty pushes, and what is done with them before and after a step.

    Args:
        root: the plain model.
        form: what |.| is.
        calibration: whose strengths are told here.

    Raises:
        RecipeError: a pull or a pressure where the push of a coefficient is not known.
    """

    def __init__(self, root: nn.Module, form: Form, calibration: Calibration) -> None:
        self._root, self._form, self._calibration = root, form, calibration
        self._units = {name: one for name, one in calibration.strengths.items() if one.by_steps}
        self._force = TaskForce()
        self._pushes: dict[str, list[float]] = {}
        self._push: ProximalPush | None = None
        self._training: Training | None = None
        self._handles: list[RemovableHandle] = []
        self._scales: dict[str, Tensor] = {}
        if self._units:
            known = form.norm != "path" and form.size == "absolute" and form.reduction != "sum"
            if not known or (form.curvature_form == "angle" and "curvature" in self._units):
                given = next(iter(self._units.values())).given
                raise RecipeError(
                    f"{given!r}: what a coefficient of this form pushes scales with is not known beforehand; give a share like "
                    '"5%" or a coefficient'
                )

    @property
    def acts(self) -> bool:
        """Whether there is anything of the kind."""
        return bool(self._units) or self._form.pushed_scales == "proximal"

    def begin(self, training: Training) -> None:
        """Hang on the optimizer.

        Raises:
            RecipeError: it is not one that a pull or a proximal step is defined for.
        """
        self.close()
        if not self.acts:
            return
        self._training = training
        group = training.optimizer.param_groups[0]
        if any(one.pull is not None for one in self._units.values()):
            reach(group, training.optimizer, "a pull")
        if any(one.pressure is not None for one in self._units.values()):
            self._handles.append(before_step(training.optimizer, self._watch))
        if self._form.pushed_scales == "proximal":
            reach(group, training.optimizer, "a proximal step")
            self._handles.append(training.optimizer.register_step_post_hook(self._shrink))

    def tell(self, trajectory: Trajectory) -> None:
        """Tell the calibration what is known by now.

        Raises:
            ModelError: before ``begin``, or without scales that could be pushed.
        """
        if not self.acts:
            return
        if self._training is None:
            raise ModelError(
                "this strength or form goes by the optimizer: call flow.begin(fp.Training(optimizer, steps=...)) first"
            )
        if not self._scales:
            self._scales = pushed_scales(trajectory, self._root)
            self._push = ProximalPush(self._scales)
            self._push.load_state_dict(self._pushes)
        first = next(iter(self._scales.values()))
        for name, one in self._units.items():
            if name in self._calibration.told:
                continue
            if one.pull is not None:
                self._tell(name, pressure_for(one.pull, self._training, first), trajectory)
            elif one.pressure is not None and self._force.steps >= min(STEPS, self._training.steps):
                force = self._force.median()
                if not force > 0:
                    raise ModelError(
                        f"{one.given!r} of the force of the task is nothing, for that was 0; give a share of its loss"
                    )
                self._tell(name, one.pressure * force, trajectory)

    def taken_off(self, penalty: Tensor) -> Tensor:
        """The penalty without its gradient at the scales, where a proximal step stands in its place."""
        if self._form.pushed_scales != "proximal" or self._push is None:
            return penalty
        return self._push.taken_off(penalty)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; nothing where nothing is measured."""
        pushes = self._pushes if self._push is None else self._push.state_dict()
        return {
            **({"force": self._force.state_dict()} if self._force.steps else {}),
            **({"pushes": pushes} if pushes else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        if "force" in state:
            self._force.load_state_dict(state["force"])
        self._pushes = dict(state.get("pushes", {}))
        if self._push is not None:
            self._push.load_state_dict(self._pushes)

    def close(self) -> None:
        """Leave the optimizer as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _tell(self, name: str, pressure: float, trajectory: Trajectory) -> None:
        """The coefficient whose gradient term presses a scale of the narrowest stage so hard."""
        push = PUSH[self._form.norm] * (CURVATURE if name == "curvature" else 1.0)
        if self._form.reduction == "mean":
            arrived = [index for index in range(len(trajectory.points)) if not trajectory.begins(index)]
            push /= min(trajectory.channels[index] for index in arrived)
        self._calibration.told[name] = pressure / push

    def _watch(self, optimizer: Any) -> None:
        waiting = any(
            one.pressure is not None and name not in self._calibration.told for name, one in self._units.items()
        )
        if waiting and self._scales:
            self._force.watch(self._scales)

    def _shrink(self, optimizer: Any, arguments: Any, keywords: Any) -> None:
        if self._push is not None:
            self._push.after_step(optimizer)


def pushed_scales(trajectory: Trajectory, root: nn.Module) -> dict[str, Tensor]:
    """Name -> the weights of the batch norms that a point behind another one ends in.

    Raises:
        ModelError: there are none.
    """
    parameters = dict(root.named_parameters())
    found: dict[str, Tensor] = {
        name: parameters[name]
        for index, makers in enumerate(trajectory.makers)
        for name in makers
        if not trajectory.begins(index) and name in parameters and parameters[name].ndim == 1
    }
    if not found:
        raise ModelError(
            'no point of this flow ends in a batch norm whose scales could be pushed; give a share like "5%" or a coefficient'
        )
    return found
