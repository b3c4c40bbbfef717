"""What an evaluation of a model says: one number, or the right answers image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowprune.errors import ModelError
from flowprune.studies.sensitivity.scan import checked_accuracy


@dataclass(frozen=True)
class Scored:
    """How good a model is.

    Attributes:
        accuracy: per cent of right answers; or the one number, in its own unit, that the evaluation gave.
        right: [images], which were answered rightly; None where there is one number only.
    """

    accuracy: float
    right: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, found: object) -> Scored:
        """What a user's ``evaluate`` returned: a number, or a right (1, True) or wrong (0, False) for every image.

        Raises:
            ModelError: it is neither.
        """
        values = found.detach().cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
        if values.ndim == 0:
            return cls(checked_accuracy(found))
        if values.ndim != 1 or not len(values) or not np.isin(values, (0, 1)).all():
            raise ModelError(
                f"evaluate returned {values.dtype} {list(values.shape)}; it must return one number, or for every image whether the "
                "answer is right (True or False)"
            )
        right = values.astype(bool)
        return cls(100 * float(right.mean()), right)

    def as_dict(self) -> dict[str, Any]:
        """As JSON; the answers are a line of 1 and 0."""
        return {
            "accuracy": self.accuracy,
            "right": None if self.right is None else "".join(map(str, self.right.astype(int))),
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Scored:
        """What ``as_dict`` wrote."""
        line = written["right"]
        return cls(written["accuracy"], None if line is None else np.array([answer == "1" for answer in line]))
