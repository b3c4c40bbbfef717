"""Every criterion on a GPU gives the scores it gives on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from small_residual_network import build, groups_of, images, labels

from flowprune.methods.importance import REGISTRY
from flowprune.methods.importance._spectra.feature_spectra import StackedSpectra

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_scores_are_those_of_the_cpu(name):
    model = build(dtype=torch.float64)
    criterion = REGISTRY[name]
    batches = list(zip(images(40).split(10), labels(40).split(10), strict=True))
    made = criterion(batches) if criterion.needs_data else criterion()
    groups = list(groups_of(model, images(1)).values())
    expected = made(model, images(1), groups)
    found = made(copy.deepcopy(model).cuda(), images(1).cuda(), groups)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("count", [150, 300])
def test_large_stacks_are_those_of_the_cpu(count):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(count, 3, 16, 16, generator=generator)
    maps[:, 1] = 1
    scores = []
    for device in ("cpu", "cuda"):
        spectra = StackedSpectra(torch.float64)
        spectra.add(maps.to(device))
        scores.append(spectra.scores().cpu())
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-6, atol=0)
