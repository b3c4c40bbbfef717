"""An ONNX file, run by ONNX Runtime on the processor, with the notes that ``export`` wrote into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowprune.engine.measuring.onnx_program import session_of
from flowprune.errors import ArtifactError, MissingLibraryError, one_line

NOTES_KEY = "flowprune"
"""The entry of the file's metadata that holds the notes, as JSON."""


class OnnxModel:
    """A network of one input and one output or more, of which the first is given.

    Args:
        path: of the file.
        threads: ONNX Runtime works with; its own choice if None.

    Attributes:
        notes: what ``export(notes=)`` wrote; empty in a file of somebody else's.
        image_shape: the sizes of its input behind the batch, or None where one is open.

    Raises:
        MissingLibraryError: ONNX Runtime is not installed.
        ArtifactError: the file is missing or damaged.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise MissingLibraryError("ONNX files need onnxruntime: pip install 'flowprune[onnx]'") from error
        if not path.is_file():
            raise ArtifactError(f"no ONNX file {path}")
        try:
            self._session = session_of(str(path), threads)
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise ArtifactError(
                f"cannot read {path}: it is damaged, or no ONNX file ({one_line(error, 200)})"
            ) from error
        self.path = path
        try:
            noted = json.loads(self._session.get_modelmeta().custom_metadata_map.get(NOTES_KEY, "{}"))
        except ValueError:
            noted = {}
        self.notes: dict[str, Any] = noted if isinstance(noted, dict) else {}
        self._input = self._session.get_inputs()[0]
        sizes = self._input.shape[1:]
        self.image_shape: tuple[int, ...] | None = (
            tuple(sizes) if all(isinstance(size, int) for size in sizes) else None
        )
        self.fixed_batch: int | None = self._input.shape[0] if isinstance(self._input.shape[0], int) else None

    def __call__(self, images: Tensor) -> Tensor:
        """The first output for float32 images [N, ...]."""
        try:
            found = self._session.run(None, {self._input.name: images.numpy()})[0]
        except Exception as error:
            raise ArtifactError(
                f"{self.path} does not run on images {list(images.shape)}: {one_line(error, 200)}"
            ) from error
        return torch.from_numpy(found)
