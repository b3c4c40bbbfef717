"""The presets by name: the YAML files of this folder, and what entry points of the group ``flowprune.presets`` hold.

An entry point is a mapping as such a file has it, or the path of one.
"""

from __future__ import annotations

from importlib import resources
from importlib.metadata import EntryPoint
from pathlib import Path

from flowprune.methods.presets.preset import Preset, preset_from
from flowprune.registry import Registry


class _Presets(Registry[Preset]):
    """A registry whose files are YAML."""

    def _import_files(self) -> None:
        if self._imported:
            return
        for file in resources.files(self._package).iterdir():
            if file.name.endswith(".yaml"):
                with resources.as_file(file) as path:
                    self.register(Path(file.name).stem)(preset_from(Path(file.name).stem, path))
        self._imported = True

    def _loaded(self, point: EntryPoint) -> Preset:
        return preset_from(point.name, point.load())


REGISTRY: Registry[Preset] = _Presets("method", "flowprune.methods.presets")
