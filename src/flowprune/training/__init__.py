"""Training and fine-tuning: data sets, the loop, evaluation."""

from __future__ import annotations

from flowprune.engine.interfaces import Regularizer
from flowprune.training.data import Data, data_sets, load_data
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
    "data_sets",
    "evaluate",
    "load_data",
    "train",
]
