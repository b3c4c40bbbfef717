"""Save, load, export: one file without pickle, and ONNX."""

from __future__ import annotations

from flowprune.artifacts.exporting import OnnxExport, export
from flowprune.artifacts.header import Header, read_header
from flowprune.artifacts.loading import load
from flowprune.artifacts.saving import save

__all__ = ["Header", "OnnxExport", "export", "load", "read_header", "save"]
