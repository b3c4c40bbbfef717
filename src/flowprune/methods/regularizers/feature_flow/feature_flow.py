"""Feature Flow Regularization: a penalty on the length and the curvature of the features' way through a network.

Feature Flow Regularization, arXiv 2106.02914, Neural Networks 161 (2023) 598-613. The paper's idea is known, its code was never
published; the equations below are this project's own choice.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Training
from flowprune.errors import ModelError, checked_name
from flowprune.methods.regularizers.feature_flow.by_steps import BySteps
from flowprune.methods.regularizers.feature_flow.followed import Followed
from flowprune.methods.regularizers.feature_flow.form import Form, Norm, PushedScales, Size, Weights
from flowprune.methods.regularizers.feature_flow.maps.magnitude import Reduction, accumulated
from flowprune.methods.regularizers.feature_flow.maps.trajectory import Trajectory
from flowprune.methods.regularizers.feature_flow.penalty.nothing_to_penalize import nothing_recorded
from flowprune.methods.regularizers.feature_flow.penalty.terms import CurvatureForm, flow_penalty
from flowprune.methods.regularizers.feature_flow.points.recording import Forward
from flowprune.methods.regularizers.feature_flow.stream_penalty import stream_penalty
from flowprune.methods.regularizers.feature_flow.unwrapping import unwrapped
from flowprune.methods.regularizers.feature_flow.ways import Ways, ways_of
from flowprune.methods.regularizers.strength.control import SCHEDULES, Schedule
from flowprune.methods.regularizers.strength.given_strength import strength_of
from flowprune.methods.regularizers.strength.observed_loss import zero_for
from flowprune.methods.regularizers.strength.percentages import Calibration
from flowprune.methods.regularizers.strength.saved_state import state_of, take_over
from flowprune.methods.regularizers.strength.steering import Steering


class FeatureFlow(Followed):
    """The FFR penalty of a model, one line in a training loop.

    ::

        flow = FeatureFlow(model, gradient="5%", curvature="5%")
        loss = criterion(model(x), y) + flow.penalty()

    With Y_l the feature [N, C, ...] at point l and P_l what makes it comparable with Y_{l+1}::

        d_l = Y_{l+1} - P_l Y_l                                  gradient of the flow
        c_l = Y_{l+1} - 2 P_l Y_l + P_l P_{l-1} Y_{l-1}          curvature
        penalty = k1 * sum_l |d_l| + k2 * sum_l |c_l|

    **What |.| is.** ``norm=1`` takes absolute values. ``norm=2`` takes, for every image and channel, the root mean square over
    positions (not squared; subgradient 0 at 0), which stands for each of these positions. Then ``reduction``:

    - ``"mean"``: mean over images, channels and positions. The pressure on one channel goes as 1 / C.
    - ``"channel"``: mean over images and positions, sum over channels. Equal pressure on every channel.
    - ``"sum"``: mean over images, sum over channels and positions. High-resolution stages weigh most.

    Dimension 1 counts as the channels, also of tokens [N, L, C]; to ``norm=1`` with ``"mean"`` that makes no difference.

    **Channels as groups.** ``norm="group"`` takes the root mean square of a channel over all images and positions, so that channels
    vanish and not entries. With ``norm="path"`` a channel's whole way is one group, which no longer stops at a stage::

        sum over ways of  sqrt( 1/4 |Y_first|^2 + sum_l |d_l|^2 )         |.|^2: mean square over images and positions

    where a way is a coupled channel of the engine (what ``plan`` lets leave as a whole), and first is every point that no link
    arrives at. When it is 0 every layer on the stream gets narrower. Curvatures are grouped alike, without firsts. The sums
    are over all processes of ``torch.distributed``. ``weights="macs"`` weighs a channel by the MACs that leave with it.

    **Relative sizes.** ``size="relative"`` divides |d_l| and |c_l| by the mean size of Y_{l+1} (in that norm), through the
    gradient: there is no reward for shrinking everything. ``"detached"`` divides without a gradient, as the control.

    **Proximal.** ``pushed_scales="proximal"`` takes the penalty's gradient off the scales of the batch norms that the points end
    in; after each step a soft threshold shrinks them by as much (``ProximalPush``). It needs ``begin`` and one more backward pass.

    ``curvature_form="angle"`` replaces |c_l| by the angle between successive differences, 2 atan2(|u - v|, |u + v|) with u, v the
    normalised P_l Y_l - P_l P_{l-1} Y_{l-1} and d_l of one image, mean over images; 0 where either norm is below 1e-8. It has no
    scale, so norm and reduction do not matter to it.

    **Strength.** A float is k1 (k2) itself. ``"5%"`` fixes it so that the term equals 5 % of the mean task loss over the first 10
    batches (calls of ``penalty()`` whose task loss is finite); until all percentages are calibrated the whole penalty is 0. Where
    ``torch.distributed`` runs, all processes share one calibration, so all must call ``penalty()`` equally often.

    ``"0.5 pull"`` moves a scale of the narrowest stage by 0.5 over the training, against weight decay alone (SGD only). ``"0.5
    pressure"`` presses it half as hard as the task holds the scales, measured over the first 100 steps or the first epoch.
    Both, and proximal steps, need ``flow.begin(fp.Training(optimizer, steps=...))``; ``train`` and the integrations call it.

    With ``target_dead`` a controller takes over from there: call ``epoch_end()`` after every epoch, and the strength rises and
    falls until that share of the filters is dead at the end. It rises to 20 times what was given at most; there it warns.

    **Points.** ``"blocks"``: the tensor that enters the first residual block, every block's output after the addition and the
    activation, and in plain parts every convolution after its normalisation and activation. ``"layers"``: every convolution unit,
    also inside a block (the last one of a block ends in the block's output). Or names of modules, whose outputs they are.
    Points are found from a trace of the first forward, or at once if ``inputs`` are given; ``points`` lists them, ``left_out``
    names pairs that do not enter, and why.

    **P_l** is the identity where shapes agree, and a reshape between two layouts of one stream of tokens (Swin). Elsewhere
    ``across="skip"`` leaves the pair out; ``"project"`` follows the model's own parameter-free path if it has one (an option-A
    shortcut; the max-pooling of a plain network), else takes every s-th position; channels that are missing after that become
    zeros behind the last. A narrower target or a stride that is no integer is left out. The default, None, projects where the
    model has such a path and skips elsewhere.

    **Forwards.** ``penalty()`` covers every forward with gradients since the last ``penalty()``, as if their images had been
    one batch. In evaluation mode only the last forward counts; a forward that a backward pass went through is forgotten when
    the next begins; one without gradients is never kept. So a training-mode forward that serves neither a penalty nor a
    backward pass belongs under ``torch.no_grad()``. Under autocast all is summed in float32.

    **Wrappers.** The model may be compiled or wrapped in DistributedDataParallel, before or after. A model that already *ran*
    compiled does not see hooks that come later: build the flow before its first forward. Under ``fullgraph=True`` give ``inputs``,
    or the search for the points breaks the first graph. Copies of the model carry no live hooks.

    Args:
        model: any model with convolutions, or with the modules named in ``points``. It is given forward hooks, nothing else;
            ``close()``, the end of a ``with`` block, or dropping the flow removes them.
        gradient: strength of the gradient term: a coefficient, "5%" of the task loss, "0.5 pull", "0.5 pressure", or None (off).
        curvature: strength of the curvature term, likewise.
        points: "blocks", "layers" or names of modules.
        norm: 1, 2, "group" or "path".
        across: "skip", "project" or None.
        reduction: "mean", "channel" or "sum".
        curvature_form: "second-difference" or "angle".
        size: "absolute", "relative" or "detached".
        weights: "equal", or "macs" with channel groups and paths.
        pushed_scales: "subgradient" or "proximal".
        compiled: fuse the penalty's passes by ``torch.compile``: faster in some networks, not in all (docs/flow.md).
            For ``norm=1`` with absolute sizes; it needs a C++ compiler on the CPU.
        schedule: "constant", "warm-up" (rises over the first tenth of the epochs) or "linear" (rises over all of them).
        target_dead: the share of dead filters to end with; ``gradient`` and ``curvature`` are then only what it starts with.
        target_macs: the share of the MACs that a cut of what is dead shall leave in the end, likewise.
        epochs: how many the training has; needed by a schedule or target, which go by ``epoch_end()``.
        inputs: example inputs (a tensor, a tuple of positional or a dictionary of keyword arguments) to find the points at once.

    Raises:
        RecipeError: for a strength, norm or list of points that is none.
        UnknownNameError: for an unknown option or module name.
        ModelError: if the model is DataParallel or FSDP, or no points are found in it.
        TraceError: if its forward cannot be recorded.

    Example:
        >>> import torch, flowprune as fp
        >>> model = fp.models.create("resnet8", width=4)
        >>> flow = fp.FeatureFlow(model, gradient=1e-3, curvature=1e-3)
        >>> inputs, targets = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
        >>> task_loss = torch.nn.functional.cross_entropy(model(inputs), targets)
        >>> (task_loss + flow.penalty()).backward()
        >>> flow.close()
    """

    def __init__(
        self,
        model: nn.Module,
        gradient: float | str | None = None,
        curvature: float | str | None = None,
        *,
        points: Literal["blocks", "layers"] | Sequence[str] = "blocks",
        norm: Norm = 1,
        across: Literal["skip", "project"] | None = None,
        reduction: Reduction = "mean",
        curvature_form: CurvatureForm = "second-difference",
        size: Size = "absolute",
        weights: Weights = "equal",
        pushed_scales: PushedScales = "subgradient",
        compiled: bool = False,
        schedule: Schedule = "constant",
        target_dead: float | None = None,
        target_macs: float | None = None,
        epochs: int | None = None,
        inputs: Any = None,
    ) -> None:
        checked_name("across", across, ("skip", "project", None))
        checked_name("schedule", schedule, SCHEDULES)
        self._form = Form(norm, reduction, curvature_form, size, weights, pushed_scales, compiled)
        self._steering = Steering(schedule, epochs, target_dead, target_macs)
        self._control = self._steering.control
        self.wants = ("macs_left",) if self._steering.by_macs else ()
        if (target_dead is not None or target_macs is not None) and gradient is None and curvature is None:
            gradient = "5%"
        root = unwrapped(model)
        strengths = {"gradient": strength_of(gradient, "gradient"), "curvature": strength_of(curvature, "curvature")}
        self._calibration = Calibration(strengths)
        self._by_steps = BySteps(root, self._form, self._calibration)
        weakref.finalize(self, self._by_steps.close)
        self._ways: Ways | None = None
        super().__init__(root, points, across, inputs)

    def begin(self, training: Training) -> None:
        """The first step is next: hang on the optimizer what a pull, a pressure or a proximal step needs of it.

        Raises:
            RecipeError: it is an optimizer that they are not defined for.
        """
        self._by_steps.begin(training)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """The penalty on the forwards since the last call, as a 0-dim tensor (float32, or float64 for float64 features).

        Args:
            task_loss: what the percentages are shares of; only its value is used, and only while they are calibrated. Without
                it the penalty returned during calibration is a zero that notices the sum it goes into:
                ``loss = criterion(model(x), y) + flow.penalty()`` works as it stands, also as ``penalty + loss``, ``loss +=
                penalty``, with several losses, under autocast and with a gradient scaler. If it is multiplied first, stacked or
                never added, the next call says so. Inside a step that is compiled as a whole, give the task loss.
            batch, outputs: not used; a training loop gives them to every regularizer.

        Raises:
            ModelError: if no forward with gradients ran since the last call, if nothing can be compared, if no strength was given,
                or if a percentage cannot be calibrated.
        """
        self._check_open()
        if all(strength.given is None for strength in self._calibration.strengths.values()):
            raise ModelError('the feature flow has no strength; build it as FeatureFlow(model, gradient="5%")')
        forwards = self._recorder.take()
        features = [feature for forward in forwards for feature in forward.features if feature is not None]
        if not features:
            raise ModelError(nothing_recorded(forwards))
        like = accumulated(features[-1])
        self._by_steps.tell(self._found())
        if self._calibration.ready(like.device) is None:
            return self._calibrating(forwards, task_loss, like)
        acting = {name: coefficient for name, coefficient in (self.coefficients or {}).items() if coefficient != 0}
        if not acting:
            return like.new_zeros(())
        return self._by_steps.taken_off(self._sum(forwards, acting))

    def epoch_end(self, measured: Mapping[str, float] | None = None, *, macs: float | None = None) -> dict[str, float]:
        """Tell the flow that an epoch of the training has ended; a schedule and a target go by it.

        With ``target_dead`` the share of dead filters is measured here (those whose scale is below 1e-2 of the network's 90th
        percentile, or 0), averaged over the processes of ``torch.distributed``, and the strength adapted.

        Args:
            measured: with ``target_macs``, {"macs_left": the share of the MACs that a cut of what is dead would leave now}.
            macs: that share alone, for loops of one's own.

        Returns:
            ``strength`` (in force in the epoch that ended) and the share that is steered: ``dead_share``, or ``macs_left``.

        Raises:
            ModelError: if the share of MACs is missing, or no forward has run yet.
        """
        self._check_open()
        found = {"strength": self.strength}
        macs = (measured or {}).get("macs_left") if macs is None else macs
        share = self._steering.epoch_end(self._root, macs)
        if self._steering.by_macs and macs is not None:
            return {**found, "macs_left": macs}
        return found if share is None else {**found, "dead_share": share}

    @property
    def strength(self) -> float:
        """What the schedule or the controller multiplies k1 and k2 with in the present epoch; 1 where there is neither."""
        return self._control.factor

    @property
    def coefficients(self) -> dict[str, float] | None:
        """k1 and k2 of the present epoch as {"gradient": k1, "curvature": k2}; None while they are calibrated."""
        known, factor = self._calibration.coefficients, self._control.factor
        return None if known is None else {name: factor * coefficient for name, coefficient in known.items()}

    def state_dict(self) -> dict[str, Any]:
        """The calibration and the controller, as plain numbers and strings: what a resumed training needs to go on exactly."""
        return {**state_of(self._calibration, self._control), **self._by_steps.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a calibration and a controller; an ``ArtifactError`` if it is no such state, or one of other strengths."""
        take_over(state, self._calibration, self._control)
        self._by_steps.load_state_dict(dict(state))

    def close(self) -> None:
        """Remove every hook, from the model and from the optimizer. Closing twice is fine."""
        self._by_steps.close()
        super().close()

    def _calibrating(self, forwards: Sequence[Forward], task_loss: Tensor | None, like: Tensor) -> Tensor:
        shares = [name for name, strength in self._calibration.strengths.items() if strength.share is not None]
        if not shares:
            return torch.zeros((), device=like.device, dtype=like.dtype, requires_grad=torch.is_grad_enabled())
        with torch.no_grad():
            terms = {name: self._sum(forwards, {name: 1.0}) for name in shares}
        zero, observation = zero_for(task_loss, like)
        self._calibration.expect(observation, terms)
        return zero

    def _sum(self, forwards: Sequence[Forward], coefficients: Mapping[str, float]) -> Tensor:
        """The penalty with these coefficients."""
        form = self._form
        if not form.plain:
            return stream_penalty(self._found(), forwards, coefficients, form, self._ways)
        assert form.norm == 1 or form.norm == 2
        return flow_penalty(
            self._found(), forwards, coefficients, form.norm, form.reduction, form.curvature_form, form.compiled
        )

    def _met(self, trajectory: Trajectory, inputs: Any) -> None:
        self._steering.remember(inputs)
        if self._form.needs_ways:
            self._ways = ways_of(trajectory, self._root, inputs)
