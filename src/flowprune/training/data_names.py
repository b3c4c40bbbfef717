"""The names of the data sets, known before anything is read: a slip in one is refused without waiting for torch."""

from __future__ import annotations

DATA_SETS = ("cifar10", "cifar100", "digits", "huggingface", "imagefolder", "tinyimagenet")
