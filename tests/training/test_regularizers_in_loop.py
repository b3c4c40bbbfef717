"""Our loop calls every hook in order, for one regularizer or several, and a stopped training goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowprune.engine.interfaces import Outcome, Regularizer, Training
from flowprune.errors import ArtifactError, OutputError
from flowprune.methods.regularizers.feature_flow import FeatureFlow
from flowprune.training import TrainingSettings, load_data, train

SETTINGS = TrainingSettings.model_validate(
    {"epochs": 3, "batch_size": 32, "lr": 0.05, "augmentation": None, "precision": "float32"}
)


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(196, 10),
    )


class Everything(Regularizer):
    """Writes down every call, pulls a weight, edits a gradient, shrinks after the step, and keeps a tensor."""

    wants = ("dead_share",)

    def __init__(self, model: nn.Sequential, stop_at: int | None = None) -> None:
        self.model, self.stop_at = model, stop_at
        self.calls: list[str] = []
        self.steps = 0
        self.seen = torch.zeros(2)

    def begin(self, training: Training) -> None:
        assert isinstance(training.optimizer, torch.optim.SGD)
        self.calls.append(f"begin {training.epochs} x {training.steps} at {self.steps}")

    def penalty(
        self, task_loss: Tensor | None = None, *, batch: tuple[Tensor, Tensor] | None = None, outputs: Any = None
    ) -> Tensor:
        assert task_loss is not None and batch is not None and outputs.requires_grad
        torch.testing.assert_close(nn.functional.cross_entropy(outputs, batch[1]).detach(), task_loss)
        self.calls.append("penalty")
        return 0.01 * (1 + self.seen[0]) * self.model[0].weight.square().sum()  # type: ignore[union-attr, operator]

    def after_backward(self) -> None:
        self.calls.append("after_backward")
        self.model[3].bias.grad.zero_()  # type: ignore[union-attr]

    def after_step(self, optimizer: torch.optim.Optimizer, loss_again: Any) -> None:
        self.calls.append("after_step")
        again = loss_again()
        assert again.requires_grad
        self.seen[0] += again.detach() / 10
        with torch.no_grad():
            self.model[3].weight.mul_(1 - optimizer.param_groups[0]["lr"] * 0.01)  # type: ignore[operator]
        self.steps += 1
        if self.steps == self.stop_at:
            raise InterruptedError

    def epoch_end(self, measured: Any = None) -> dict[str, float]:
        self.calls.append("epoch_end")
        self.seen[1] += measured["dead_share"]
        return {"pull": float(self.seen[0]), "strength": 2.0}

    def finish(self) -> Outcome | None:
        with torch.no_grad():
            self.model[3].weight[0] = 0  # type: ignore[index]
        return Outcome(leaves={"3.weight": torch.tensor([0])})

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "seen": self.seen}

    def load_state_dict(self, state: Any) -> None:
        self.steps, self.seen = state["steps"], state["seen"].clone()


def test_every_hook_is_called_in_order_and_what_it_does_counts() -> None:
    data, model = load_data("digits", subset=64), small()
    method = Everything(model)
    result = train(model, data, SETTINGS, regularizer=method, progress=False)
    step = ["penalty", "after_backward", "after_step"]
    assert method.calls == ["begin 3 x 2 at 0", *(3 * [*step, *step, "epoch_end"])]
    decayed = small()[3].bias * model[3].bias[0] / small()[3].bias[0]  # weight decay alone has moved it
    torch.testing.assert_close(model[3].bias, decayed)
    assert result.history[-1]["pull"] == float(method.seen[0]) and result.history[0]["strength"] == 2.0
    (outcome,) = result.outcomes
    assert outcome.leaves is not None and outcome.leaves["3.weight"].tolist() == [0]
    assert not model[3].weight[0].any()


@pytest.mark.parametrize("several", [False, True])
def test_a_stopped_training_goes_on_bit_for_bit_with_all_of_them(tmp_path: Path, several: bool) -> None:
    data = load_data("digits", subset=64)

    def methods(model: nn.Sequential, stop_at: int | None = None) -> Any:
        one = Everything(model, stop_at)
        return [FeatureFlow(model, 0.01, schedule="linear", epochs=3), one] if several else one

    through, stopped, resumed = small(), small(), small()
    expected = train(through, data, SETTINGS, regularizer=methods(through), progress=False)
    with pytest.raises(InterruptedError):
        train(stopped, data, SETTINGS, regularizer=methods(stopped, 4), run_folder=tmp_path, progress=False)
    for _ in range(2):  # the second time it had ended
        again = methods(resumed)
        result = train(resumed, data, SETTINGS, regularizer=again, run_folder=tmp_path, resume=True, progress=False)
        timed = ("seconds", "images_per_second")
        for ours, theirs in zip(result.history, expected.history, strict=True):
            assert {k: v for k, v in ours.items() if k not in timed} == {
                k: v for k, v in theirs.items() if k not in timed
            }
        weights = through.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in resumed.state_dict().items())
        assert len(result.outcomes) == 1
    if several:
        assert expected.history[0]["strength"] == 1 / 3 and expected.history[0]["strength_2"] == 2.0
        with pytest.raises(OutputError, match="regularizers"):
            other = [*again, Everything(resumed)]
            train(resumed, data, SETTINGS, regularizer=other, run_folder=tmp_path, resume=True, progress=False)


def test_a_state_of_another_number_of_regularizers_is_refused() -> None:
    from flowprune.methods.regularizers.together.regularizers import Regularizers

    with pytest.raises(ArtifactError, match="2 regularizers, this one has 0"):
        Regularizers(None, {}).load_state_dict([{}, {}])
