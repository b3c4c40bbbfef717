"""What to tell a user whose flow has nothing to work on."""

from __future__ import annotations

from collections.abc import Sequence

from flowprune.methods.regularizers.feature_flow.maps.trajectory import Trajectory
from flowprune.methods.regularizers.feature_flow.points.recording import Forward


def nothing_recorded(forwards: Sequence[Forward]) -> str:
    """Why no feature was recorded since the last penalty."""
    if forwards:
        return (
            "the model ran, but none of the flow's points did; a model that ran compiled before the flow was built does not see "
            "its hooks: build the flow first, or call torch.compiler.reset()"
        )
    return (
        "penalty() found no forward with gradients since the last penalty(); call it once after model(x), outside torch.no_grad() "
        "(profile() measures a flow without gradients)"
    )


def nothing_to_compare(name: str, trajectory: Trajectory) -> str:
    """Why a term has nothing to sum."""
    count = "two" if name == "gradient" else "three"
    reason = next(iter(trajectory.left_out.items()), None)
    why = f" (for example {reason[0]}: {reason[1]})" if reason else ""
    return (
        f"the {name} of the flow needs {count} adjacent points that can be compared, and this model's {len(trajectory.points)} "
        f"points have none{why}; set {name}=None, or name other points"
    )
