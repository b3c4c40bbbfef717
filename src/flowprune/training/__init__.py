"""Training and fine-tuning: data sets, the loop, evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowprune.registry import on_first_use

if TYPE_CHECKING:
    from flowprune.engine.interfaces import Regularizer
    from flowprune.training.data import Data, data_from, data_sets, load_data
    from flowprune.training.evaluation import Evaluation, evaluate
    from flowprune.training.loop import train
    from flowprune.training.pixel_normalization import Normalization
    from flowprune.training.settings import Augmentation, TrainingSettings
    from flowprune.training.training_result import TrainingResult

__all__ = [
    "Augmentation",
    "Data",
    "Evaluation",
    "Normalization",
    "Regularizer",
    "TrainingResult",
    "TrainingSettings",
    "data_from",
    "data_sets",
    "evaluate",
    "load_data",
    "train",
]

# Imported on first use: the names of the data sets (``data_names``) must not wait for torch.
_HOMES = {
    "flowprune.engine.interfaces": "Regularizer",
    "flowprune.training.data": "Data data_from data_sets load_data",
    "flowprune.training.evaluation": "Evaluation evaluate",
    "flowprune.training.loop": "train",
    "flowprune.training.pixel_normalization": "Normalization",
    "flowprune.training.settings": "Augmentation TrainingSettings",
    "flowprune.training.training_result": "TrainingResult",
}


__getattr__, __dir__ = on_first_use(__name__, _HOMES)
