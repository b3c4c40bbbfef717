"""Similarity-preserving distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from flowprune.errors import FlowpruneError


def similarity_preserving_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently two layers see which images of a batch are alike.

    Tung & Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, arXiv 1907.09682, equations 1 to 4: with features
    ``A [b, c h w]``, ``G = A A^T`` with every row divided by its length (at least 1e-12), the loss is
    ``||G_teacher - G_student||_F^2 / b^2``. Compared with a published implementation that the authors checked (fixture). Linear
    over-parameterization (arXiv 2204.11444) adds it between an expanded layer and the dense one; the weight it has there is
    not known, 3000 is Tung & Mori's.

    Args:
        student: ``[b, ...]`` features, of any shape behind the batch.
        teacher: ``[b, ...]`` features of the same images; no gradient flows into them.

    Returns:
        A 0-dim tensor, from 0 to 4 / b; in float32 where the features are of lower precision.

    Raises:
        FlowpruneError: the batches are not equally large, or empty.

    Example:
        >>> similarity_preserving_loss(torch.ones(2, 3, 4, 4), torch.ones(2, 8))
        tensor(0.)
    """
    if not student.dim() or not teacher.dim() or len(student) != len(teacher) or not len(student):
        raise FlowpruneError(
            f"features of {list(student.shape)} and {list(teacher.shape)} are not of the same images (first dimension)"
        )
    difference = _similarities(teacher.detach()) - _similarities(student)
    return difference.square().sum() / len(student) ** 2


def _similarities(features: Tensor) -> Tensor:
    """``[b, b]``: of each image to all, rows of length 1. Products of half-precision features would not fit their type."""
    flat = features.flatten(1) if features.dim() > 1 else features[:, None]
    wide = flat.to(torch.promote_types(flat.dtype, torch.float32))
    with torch.autocast(wide.device.type, enabled=False):
        return torch.nn.functional.normalize(wide @ wide.T, dim=1, eps=1e-12)
