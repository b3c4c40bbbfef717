"""Turn shares of the task loss into coefficients: watch the first batches, then keep the coefficients for good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed

from flowprune.errors import ArtifactError, ModelError
from flowprune.methods.regularizers.strength.given_strength import Strength
from flowprune.methods.regularizers.strength.observed_loss import Observation

BATCHES = 10
"""How many batches a share is calibrated over."""


class Calibration:
    """Sums of the task loss and of the terms over the first batches, and the coefficients that follow from them.

    Args:
        strengths: by the name of the term.
    """

    def __init__(self, strengths: Mapping[str, Strength]) -> None:
        self.strengths = dict(strengths)
        self.batches = 0
        self._task = 0.0
        self._terms = dict.fromkeys(strengths, 0.0)
        self._pending: tuple[Observation, dict[str, Tensor]] | None = None
        self._unseen = False
        self.coefficients: dict[str, float] | None = None
        # Of the strengths in other units, as somebody else finds out what coefficients they are.
        self.told: dict[str, float] = {}
        if all(strength.share is None and not strength.by_steps for strength in self.strengths.values()):
            self.coefficients = {name: strength.coefficient or 0.0 for name, strength in self.strengths.items()}

    def expect(self, observation: Observation, terms: dict[str, Tensor]) -> None:
        """Remember the terms of one batch until its task loss has been seen."""
        self._pending = (observation, terms)

    def settle(self) -> None:
        """Enter the batch that is waiting, if its task loss was seen; a batch whose loss is not finite does not count."""
        if self._pending is None:
            return
        (observation, terms), self._pending = self._pending, None
        observation.closed = True
        if self.batches >= BATCHES:  # another strength is still looked for
            return
        if observation.task_loss is None:
            self._unseen = True
            return
        task = float(observation.task_loss)
        sizes = {name: float(term) for name, term in terms.items()}
        if all(math.isfinite(number) for number in (task, *sizes.values())):
            self.batches += 1
            self._task += task
            for name, size in sizes.items():
                self._terms[name] += size

    def ready(self, device: torch.device) -> dict[str, float] | None:
        """The coefficients, or None while batches are still missing.

        Raises:
            ModelError: if a batch's task loss was never seen, or a term is 0 so that no coefficient gives it a share.
        """
        if self.coefficients is not None:
            return self.coefficients
        self.settle()
        if self._unseen:
            self._unseen = False
            raise ModelError(
                'a strength like "5%" needs the task loss, and the last penalty was never added to one; '
                "write flow.penalty(task_loss), or loss = task_loss + flow.penalty()"
            )
        untold = [name for name, strength in self.strengths.items() if strength.by_steps and name not in self.told]
        shares = any(strength.share is not None for strength in self.strengths.values())
        if not untold and (self.batches >= BATCHES or not shares):
            self.coefficients = self._solve(device)
        return self.coefficients

    def _solve(self, device: torch.device) -> dict[str, float]:
        names = sorted(self._terms)
        sums = [self._task, *(self._terms[name] for name in names)]
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            # Every process saw other images; all must go on with the same coefficients.
            precise = torch.float32 if device.type == "mps" else torch.float64
            shared = torch.tensor(sums, dtype=precise, device=device)
            distributed.all_reduce(shared)
            sums = shared.tolist()
        task, terms = sums[0], dict(zip(names, sums[1:], strict=True))
        found = {}
        for name, strength in self.strengths.items():
            if strength.share is None:
                found[name] = self.told.get(name, strength.coefficient or 0.0)
            elif terms[name] == 0:
                raise ModelError(
                    f"the {name} of the flow was 0 in all of the first {BATCHES} batches, so no coefficient makes it "
                    f"{strength.given} of the task loss; give a number instead"
                )
            else:
                found[name] = strength.share * task / terms[name]
        return found

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings: enough to go on as if never interrupted."""
        self.settle()
        return {
            "strengths": {name: strength.given for name, strength in self.strengths.items()},
            "batches": self.batches,
            "task_loss": self._task,
            "terms": dict(self._terms),
            "coefficients": None if self.coefficients is None else dict(self.coefficients),
            **({"told": dict(self.told)} if self.told else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave.

        Raises:
            ArtifactError: if it is something else, or belongs to other strengths.
        """
        own = {name: strength.given for name, strength in self.strengths.items()}
        try:
            strengths, batches = dict(state["strengths"]), int(state["batches"])
            task, terms = float(state["task_loss"]), {name: float(state["terms"][name]) for name in own}
            given = state["coefficients"]
            coefficients = None if given is None else {name: float(given[name]) for name in own}
            told = {str(name): float(number) for name, number in dict(state.get("told", {})).items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"this is no state of a feature flow: {error!r} is missing or malformed") from None
        if strengths != own:
            raise ArtifactError(f"the state is of a feature flow with strengths {strengths}, this one has {own}")
        self._pending, self._unseen, self.told = None, False, told
        self.batches, self._task, self._terms, self.coefficients = batches, task, terms, coefficients
