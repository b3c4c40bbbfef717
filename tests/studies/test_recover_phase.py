"""Recoveries that act in one training, whatever their order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import flowprune as fp
from flowprune.studies.phases import RecoverPhase
from flowprune.studies.phases.working import Done, Work


@pytest.mark.parametrize(
    "names", [("distillation", "over_parameterization"), ("over_parameterization", "distillation")]
)
def test_what_was_trained_wide_comes_back_trained(
    names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    plan = fp.plan(dense, torch.zeros(1, 1, 8, 8), importance=fp.importance.L2(), channels=0.5)
    small = fp.prune(dense, plan)
    before = small[0].weight.detach().clone()

    def trained(phase: RecoverPhase, model: nn.Module, work: Work, acting: list[object]) -> Done:
        assert len(acting) == 2 and type(model[0]) is not nn.Conv2d
        with torch.no_grad():
            model[0].core.weight.mul_(2)
        return Done(model, {})

    monkeypatch.setattr(RecoverPhase, "trained", trained)
    work = Work(
        fp.load_data("digits", subset=64), torch.device("cpu"), 0, tmp_path, "x", False, whole=lambda _: (dense, plan)
    )
    done = RecoverPhase(recoveries=[{"name": name} for name in names]).carried_out(small, work)
    assert type(done.model[0]) is nn.Conv2d
    torch.testing.assert_close(done.model[0].weight, 2 * before)
