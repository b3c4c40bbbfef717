"""The points of a flow, for people."""

from __future__ import annotations

from flowprune.errors import counted
from flowprune.methods.regularizers.feature_flow.maps.trajectory import Trajectory


def described(trajectory: Trajectory) -> str:
    """One line a point under one heading a trajectory, then what does not enter, and why."""
    points = trajectory.points
    count = points[-1].flow + 1
    head = f"feature flow: {counted(len(points), 'point')}" + (f" in {count} trajectories" if count > 1 else "")
    width = max(len(point.name) for point in points)
    lines = [head]
    for index, point in enumerate(points):
        if count > 1 and trajectory.begins(index):
            lines.append(f"trajectory {point.flow + 1}")
        place = f"{point.side} of {point.module}" + (f", call {point.occurrence + 1}" if point.occurrence else "")
        lines.append(f"  {point.name:{width}}  {point.kind:11}  {place}".rstrip())
    lines += [f"left out: {name}: {reason}" for name, reason in trajectory.left_out.items()]
    return "\n".join(lines)
