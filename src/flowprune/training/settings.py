"""What a training is asked to do: every choice that changes its result, validated and writable as YAML."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flowprune.errors import FlowpruneError


class Augmentation(BaseModel):
    """Random changes to the training images, batched on the device; see ``augment``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop: int = Field(default=4, ge=0, le=64)
    flip: bool = True


class TrainingSettings(BaseModel):
    """How to train; where nothing is said, as the pruning literature does: SGD, momentum 0.9 with Nesterov's correction, weight
    decay on every parameter.

    Attributes:
        epochs: passes over the training images; 0 evaluates only.
        batch_size: images a step, over all processes.
        lr: the learning rate at the start, after the warm-up.
        schedule: "cosine" falls to 0 with every step; "step" multiplies by ``lr_decay`` at each milestone; "constant".
        milestones: shares of the training, in (0, 1), where "step" decays.
        lr_decay: the factor of "step".
        warmup_epochs: the learning rate rises linearly over these first epochs.
        optimizer: "sgd", another one of torch's by its class's name in small letters ("adamw"), or one of timm's ("timm:lamb").
        optimizer_options: what else it takes: {"betas": [0.9, 0.95]}.
        momentum, nesterov: of SGD, and of others that have such an argument.
        weight_decay: as the optimizer understands it.
        weight_decay_on: "all" parameters, batch norms and biases too; "weights": no vectors, so neither of them.
        augmentation: random crops and flips; None for none.
        precision: "bfloat16" runs the training's forward under autocast; weights, penalty and evaluation stay float32. "auto" takes
            what is faster on this processor, by a measurement of a second; float32 where the training lasts less than a minute.
        evaluate_every: epochs between two evaluations on the test images; the last epoch is always evaluated.
        seed: of the order of the images, their augmentation and dropout.

    Example:
        >>> import flowprune as fp
        >>> settings = fp.TrainingSettings(epochs=40, lr=0.05)
        >>> settings.schedule, settings.momentum
        ('cosine', 0.9)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(default=200, ge=0)
    batch_size: int = Field(default=128, ge=2)
    lr: float = Field(default=0.1, gt=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    lr_decay: float = Field(default=0.1, gt=0, lt=1)
    warmup_epochs: float = Field(default=0.0, ge=0)
    optimizer: str = "sgd"
    optimizer_options: dict[str, Any] = Field(default_factory=dict)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0)
    weight_decay_on: Literal["all", "weights"] = "all"
    augmentation: Augmentation | None = Augmentation()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    evaluate_every: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _coherent(self) -> TrainingSettings:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        self._check_optimizer()
        if any(not 0 < milestone < 1 for milestone in self.milestones):
            raise ValueError("milestones are shares of the training, between 0 and 1")
        return self

    def _check_optimizer(self) -> None:
        """Before anything is trained: a mistake in the settings of a last phase would be found out hours later."""
        if self.optimizer == "sgd" and not self.optimizer_options:
            return
        import torch  # here: a slip in the settings of usual trainings is refused without waiting for it

        from flowprune.training.optimizer_choice import arguments, checked

        own = {name: getattr(self, name) for name in ("lr", "momentum", "nesterov", "weight_decay")}
        try:
            given = arguments(self.optimizer, self.optimizer_options, **own)
            checked(self.optimizer, given, [torch.nn.Parameter(torch.zeros(2, 2))])
        except FlowpruneError as error:
            raise ValueError(str(error)) from error
        for name in ("momentum", "nesterov"):
            if own[name] != type(self).model_fields[name].default and name not in given:
                raise ValueError(f"the optimizer {self.optimizer} takes no {name}; leave it out")
