"""Training a small network on what the dense one says."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprune.engine.interfaces import CutSlices, Recovery
from flowprune.engine.tracing.shadow import call_model
from flowprune.errors import FlowpruneError, ModelError, checked_name
from flowprune.methods.recovery.registry import REGISTRY
from flowprune.methods.recovery.similarity_preserving import similarity_preserving_loss

Likeness = Literal["values", "similarity"]


@REGISTRY.register("distillation")
class Distillation(Recovery):
    """The dense network teaches the small one: its logits, softened, and features in between.

    Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531, section 2, added to the task loss::

        logits * T^2 KL(softmax(teacher / T) | softmax(student / T)) + features * mean over layers of how unlike they are

    KL is averaged over the images. For "values" a layer is as unlike as ``|S - D|^2 / |D|^2``, with S what the small layer says
    and D what the dense layer says in the channels that the cut has left; no further layer has to translate between the two, as
    in FitNets (arXiv 1412.6550, equation 3). For "similarity" it is ``similarity_preserving_loss`` (arXiv 1907.09682).

    Hand it to ``train(trainable, ..., regularizer=method)`` after ``prepare``. The teacher is a frozen copy of the dense network in
    evaluation mode. It needs no state of its own: a resumed training prepares it anew from the same dense network.

    Args:
        temperature: T, above 0.
        logits: weight of the first sum, at least 0.
        features: weight of the second, at least 0.
        layers: dotted paths of the modules whose outputs are compared; each returns one tensor.
        likeness: "values" or "similarity".

    Raises:
        FlowpruneError: a weight or the temperature is not such a number; ``features`` without ``layers``.

    Example:
        >>> method = Distillation(temperature=4, features=1.0, layers=["layer1", "layer2"])
        >>> trainable = method.prepare(small, dense, plan, ())
        >>> loss = criterion(trainable(x), y) + method.penalty(batch=(x, y), outputs=trainable(x))
    """

    trains: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        logits: float = 1.0,
        features: float = 0.0,
        layers: Sequence[str] = (),
        likeness: Likeness = "values",
    ) -> None:
        if not (temperature > 0 and math.isfinite(temperature)):
            raise FlowpruneError(f"temperature={temperature}: logits are divided by a number above 0")
        for name, weight in (("logits", logits), ("features", features)):
            if not (weight >= 0 and math.isfinite(weight)):
                raise FlowpruneError(f"{name}={weight}: the weight of a loss is a number from 0 on")
        if features and not layers:
            raise FlowpruneError(f"features={features} needs layers=, the paths of the modules to compare")
        self.temperature, self.logits, self.features = float(temperature), float(logits), float(features)
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        self.likeness = checked_name("likeness", likeness, ("values", "similarity"))
        self._teacher: nn.Module | None = None
        self._seen: dict[str, Tensor] = {}
        self._taught: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}
        self._widths: dict[str, int] = {}
        self._hooks: list[Any] = []

    def prepare(self, small: nn.Module, dense: nn.Module, plan: CutSlices, batches: Iterable[Any]) -> nn.Module:
        """Take a frozen copy of ``dense`` as the teacher, and return ``small``; no batch is looked at.

        Raises:
            ModelError: one of the networks has no such module, or (for "values") what the layer says cannot be matched.
        """
        self.close()
        teacher = copy.deepcopy(dense).eval().requires_grad_(False)
        compared = self.layers if self.features else ()
        for name, model in ((name, model) for name in compared for model in (small, dense)):
            if name not in dict(model.named_modules()):
                raise ModelError(f"the network has no module {name!r}; its paths are those of named_modules()")
        for name in compared:
            if self.likeness == "values":
                self._kept[name], self._widths[name] = _channels_left(name, dense.get_submodule(name), plan)
            for model, notes in ((small, self._seen), (teacher, self._taught)):
                hook = model.get_submodule(name).register_forward_hook(partial(_noting, notes, name))
                self._hooks.append(hook)
        self._teacher = teacher
        return super().prepare(small, dense, plan, ())

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        """How far the small network is from the dense one on this batch, a 0-dim tensor.

        Raises:
            FlowpruneError: ``prepare`` was not called; there is no batch, or the outputs are not one tensor of logits.
        """
        if self._teacher is None:
            raise FlowpruneError("Distillation has no teacher yet; call prepare(small, dense, plan, ()) first")
        if batch is None or not isinstance(outputs, Tensor):
            raise FlowpruneError(
                "Distillation compares logits: call penalty(batch=(inputs, targets), outputs=one tensor of logits)"
            )
        inputs = batch[0]
        first = next(self._teacher.parameters(), inputs)
        if first.device != inputs.device:
            self._teacher.to(inputs.device)
        self._teacher.eval()
        with torch.no_grad():
            wanted = call_model(self._teacher, inputs)
        wide = torch.promote_types(outputs.dtype, torch.float32)
        with torch.autocast(outputs.device.type, enabled=False):
            total = outputs.new_zeros((), dtype=wide)
            if self.logits:
                mine = functional.log_softmax(outputs.to(wide) / self.temperature, dim=1)
                theirs = functional.log_softmax(wanted.to(wide) / self.temperature, dim=1)
                apart = functional.kl_div(mine, theirs, reduction="sum", log_target=True) / (
                    mine.numel() / mine.shape[1]
                )
                total = total + self.logits * self.temperature**2 * apart
            for name in self._kept if self.likeness == "values" else self.layers if self.features else ():
                total = total + self.features / len(self.layers) * self._unlike(name, wide)
        self._seen.clear()
        self._taught.clear()
        return total

    def forget(self) -> None:
        """What another method's forward left is not this step's."""
        self._seen.clear()
        self._taught.clear()

    def close(self) -> None:
        """Take the hooks off the small network, and let the teacher go."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._kept, self._teacher = [], {}, None
        self.forget()

    def _unlike(self, name: str, wide: torch.dtype) -> Tensor:
        if name not in self._seen or name not in self._taught:
            raise ModelError(f"{name} did not run in this step, or returned no tensor; leave it out of layers=")
        student, teacher = self._seen[name].to(wide), self._taught[name].to(wide)
        if self.likeness == "similarity":
            return similarity_preserving_loss(student, teacher)
        differing = [
            d for d, (mine, theirs) in enumerate(zip(student.shape, teacher.shape, strict=False)) if mine != theirs
        ]
        if len(differing) == 1 and teacher.shape[differing[0]] == self._widths[name]:
            teacher = teacher.index_select(differing[0], self._kept[name].to(teacher.device))
        if student.shape != teacher.shape:
            raise ModelError(f'{name}: what the two networks say has no common channels; use likeness="similarity"')
        return (student - teacher).square().sum() / teacher.square().sum().clamp(min=torch.finfo(wide).tiny)


def _noting(notes: dict[str, Tensor], name: str, module: nn.Module, arguments: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        notes[name] = output


def _channels_left(name: str, module: nn.Module, plan: CutSlices) -> tuple[Tensor, int]:
    """Which of the dense module's output channels are left, and how many there were: those of the last tensor that has them."""
    widths = [
        (f"{name}.{own}", tensor.shape[0])
        for own, tensor in (*module.named_parameters(), *module.named_buffers())
        if tensor.dim() and tensor.shape[0] > 1 and own.rpartition(".")[2] in ("weight", "bias", "running_mean")
    ]
    if not widths:
        raise ModelError(
            f'{name} has no weights that tell its channels; compare a convolution, a norm or a block, or use likeness="similarity"'
        )
    last, width = widths[-1]
    mask = torch.ones(width, dtype=torch.bool)
    mask[list(plan.removed.get(last, {}).get(0, ()))] = False
    return mask.nonzero().flatten(), width
