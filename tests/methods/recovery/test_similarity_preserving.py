"""Similarity-preserving distillation against a published implementation, and its own properties."""

from __future__ import annotations

import pytest
import torch
from fixtures import fixture

from flowprune.errors import FlowpruneError
from flowprune.methods.recovery import similarity_preserving_loss

torch.set_num_threads(1)


def test_loss_and_gradient_are_those_published():
    case = fixture("spkd-similarity-loss")
    student = torch.tensor(case["inputs"]["student"], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(case["inputs"]["teacher"], dtype=torch.float64, requires_grad=True)
    loss = similarity_preserving_loss(student, teacher)
    loss.backward()
    assert loss.dim() == 0 and teacher.grad is None
    assert float(loss) == pytest.approx(case["outputs"]["loss"][0], abs=1e-10)
    expected = torch.tensor(case["outputs"]["grad_student"], dtype=torch.float64)
    torch.testing.assert_close(student.grad, expected, rtol=0, atol=1e-10)
    silent = student.detach().clone()
    silent[2] = 0
    silent.requires_grad_()
    loss = similarity_preserving_loss(silent, teacher)
    loss.backward()
    assert float(loss) == pytest.approx(case["outputs"]["loss_with_zero_row"][0], abs=1e-10)
    assert torch.isfinite(silent.grad).all()


def test_only_likeness_counts_not_scale_or_rotation():
    features = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    assert float(similarity_preserving_loss(3 * features @ rotation, features)) == pytest.approx(0, abs=1e-12)
    assert float(similarity_preserving_loss(features.square(), features)) > 1e-3


def test_half_precision_features_do_not_overflow():
    features = torch.full((4, 2000), 60.0, dtype=torch.float16)
    features[0] *= -1
    loss = similarity_preserving_loss(features, torch.ones(4, 3))
    assert loss.dtype == torch.float32 and 0 < float(loss) <= 1


def test_batches_that_differ_are_said_in_one_line():
    for student, teacher in ((torch.ones(3, 2), torch.ones(4, 2)), (torch.ones(0, 2), torch.ones(0, 2))):
        with pytest.raises(FlowpruneError, match="not of the same images"):
            similarity_preserving_loss(student, teacher)
