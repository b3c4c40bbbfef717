"""The flow made visible: the paths of images from point to point, stage by stage."""

from __future__ import annotations

from flowprune.studies.flow_paths.paths import FlowPaths, flow_paths
from flowprune.studies.flow_paths.stage_paths import StagePaths

__all__ = ["FlowPaths", "StagePaths", "flow_paths"]
