"""What a resumed training needs of a penalty's strength: the calibration and the controller, as one state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowprune.errors import ArtifactError
from flowprune.methods.regularizers.strength.control import Control
from flowprune.methods.regularizers.strength.percentages import Calibration


def state_of(calibration: Calibration, control: Control) -> dict[str, Any]:
    """The state of both, as plain numbers and strings."""
    return {**calibration.state_dict(), "control": control.state_dict()}


def take_over(state: Mapping[str, Any], calibration: Calibration, control: Control) -> None:
    """Give both what ``state_of`` gave; neither is changed where one of them refuses.

    Raises:
        ArtifactError: it is no such state, or one of other strengths, another schedule or target.
    """
    before = calibration.state_dict()
    calibration.load_state_dict(state)
    try:
        if "control" in state or control != Control():  # a state of an earlier version has none
            control.load_state_dict(state.get("control", {}))
    except ArtifactError:
        calibration.load_state_dict(before)
        raise
