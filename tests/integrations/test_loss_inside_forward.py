"""Networks that compute their loss themselves, as detectors do: a hook adds the penalty to it (docs/other-libraries.md)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import flowprune as fp


class LossInside(nn.Module):
    """A network whose forward returns scores of images, and of a batch the loss and its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.network = fp.models.create("resnet8", in_channels=1, width=4)

    def forward(self, given: Any) -> Any:
        if not isinstance(given, dict):
            return self.network(given)
        scores = self.forward(given["img"])
        parts = functional.cross_entropy(scores, given["cls"], reduction="none")
        return parts, parts.detach()


def test_a_hook_adds_the_penalty_that_a_loop_would_add() -> None:
    torch.manual_seed(0)
    by_hook = LossInside().double()
    by_hand = copy.deepcopy(by_hook)
    images, labels = torch.randn(4, 1, 16, 16, dtype=torch.float64), torch.tensor([0, 3, 7, 9])
    flow = fp.FeatureFlow(by_hook, 0.3, 0.2, inputs=images)

    def add_penalty(model: nn.Module, batch: Any, output: Any) -> Any:
        if not (model.training and torch.is_grad_enabled()):
            return output
        loss = output[0].sum()
        return loss + flow.penalty(loss.detach()), output[1]

    hook = by_hook.register_forward_hook(add_penalty)
    loss, _ = by_hook({"img": images, "cls": labels})
    loss.backward()

    with fp.FeatureFlow(by_hand, 0.3, 0.2) as other:
        expected = functional.cross_entropy(by_hand(images), labels, reduction="sum")
        assert loss > expected
        expected = expected + other.penalty()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    gradients: list[Tensor | None] = [parameter.grad for parameter in by_hand.parameters()]
    for found, wanted in zip([parameter.grad for parameter in by_hook.parameters()], gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)

    by_hook.eval()
    with torch.no_grad():
        assert by_hook({"img": images, "cls": labels})[0].shape == (4,)  # the loss alone, image by image
    flow.close()
    hook.remove()
    assert not by_hook._forward_hooks and not by_hook._forward_pre_hooks
