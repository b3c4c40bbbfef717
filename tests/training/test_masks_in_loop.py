"""Our loop holds what is masked, whatever the optimizer and the regularizers do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import flowprune as fp
from flowprune.engine.interfaces import Regularizer
from flowprune.engine.steps import lineage_of


class Reviving(Regularizer):
    """Moves every weight after every step."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.01)


def test_masked_weights_are_zero_after_training_and_the_others_have_moved() -> None:
    torch.manual_seed(0)
    model = fp.models.create("vgg6", in_channels=1, width=4)
    data = fp.load_data("digits", subset=64)
    settings = fp.TrainingSettings(epochs=1, batch_size=32)
    sparse = fp.mask(model, data.example_input(), mask="n_m", weights=0.5)
    before = {name: parameter.clone() for name, parameter in sparse.named_parameters()}
    fp.train(sparse, data, settings, regularizer=Reviving(sparse), progress=False)
    masks = lineage_of(sparse).masks
    for name, parameter in sparse.named_parameters():
        if name in masks:
            assert torch.equal(parameter != 0, masks[name]) and not torch.equal(parameter, before[name])
