"""What the rules said is settled once: whoever groups channels, or asks for more to stay, changes nothing of it."""

from __future__ import annotations

import torch
from torch import nn

from flowprune.engine.coupling import analyse, group_channels
from flowprune.engine.coupling.notes import Freeze
from flowprune.engine.tracing import trace


class GroupsAgainstRows(nn.Module):
    """A shuffle ties each group of a convolution into one channel, which may not leave as a whole: grouping has much to find."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 1, groups=4)
        self.after = nn.Conv2d(16, 16, 1, groups=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.stem(x))
        b, c, h, w = x.shape
        return self.after(x.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)).mean((1, 2, 3))


def test_grouping_and_freezing_leave_the_notes_as_they_are() -> None:
    model, x = GroupsAgainstRows(), torch.randn(2, 3, 4, 4)
    notes, passes = analyse(model, [trace(model, x), trace(model, x, training=True)])
    freezes, balances, roots = list(notes.freezes), list(notes.balances), notes.roots.copy()
    first = group_channels(notes, passes)
    stem = notes.slot_of["stem.weight", 0]
    without = group_channels(notes.frozen([Freeze(stem.labels, "as a test asks")]), passes)
    again = group_channels(notes, passes)
    assert list(notes.freezes) == freezes and list(notes.balances) == balances and (notes.roots == roots).all()
    assert [group.name for group in again.groups] == [group.name for group in first.groups]
    assert "stem" in {group.name for group in first.groups} and "stem" not in {group.name for group in without.groups}
    assert without.frozen["stem.weight"] == "as a test asks"
    ahead = group_channels(
        notes.frozen_first([Freeze(notes.slot_of["grouped.weight", 0].labels, "first of all")]), passes
    )
    assert ahead.frozen["grouped.weight"] == "first of all" != again.frozen["grouped.weight"]
