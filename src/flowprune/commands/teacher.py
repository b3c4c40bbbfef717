"""Options of a training in which another network teaches: what it says of every image is learned beside the labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from flowprune.commands.known_names import complete_models
from flowprune.commands.options import pairs
from flowprune.errors import DataError, RecipeError

if TYPE_CHECKING:
    from torch import nn

    from flowprune.commands.model_and_data import Subject
    from flowprune.engine.interfaces import Regularizer
    from flowprune.training import Data

TEACHING = "Distillation"
"""The group of these options in a command's help."""

Teacher = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        help="A model whose answers are learned beside the labels, such as the network before the cut.",
        show_default=False,
        rich_help_panel=TEACHING,
        autocompletion=complete_models,
    ),
]
TeacherOption = Annotated[
    list[str] | None, pairs("--teacher-option", "Option of the distillation, such as temperature=2", TEACHING)
]


class _NothingCut(NamedTuple):
    """A teacher may be any network: which of its channels a student still has is not known."""

    removed: Mapping[str, Mapping[int, tuple[int, ...]]]


@contextmanager
def taught(
    student: nn.Module, teacher: Subject | None, data: Data, options: Mapping[str, Any]
) -> Iterator[list[Regularizer]]:
    """The distillation, for a training within this context; nothing without a teacher.

    Args:
        student: is trained.
        teacher: a frozen copy of it teaches.
        data: what the student is trained on.
        options: of ``flowprune.methods.recovery.Distillation``.

    Raises:
        RecipeError: there are options and no teacher, or one has a value it cannot take.
        DataError: the teacher gives no logits of the data set's classes.
    """
    if teacher is None:
        if options:
            raise RecipeError("--teacher-option is for a teacher; name one with --teacher")
        yield []
        return
    from flowprune.methods.recovery.registry import REGISTRY

    if not teacher.gives_logits_of(data):
        raise DataError(
            f"the teacher does not answer with the {data.classes} classes of {data.name}; take one that was trained on them"
        )
    distillation = REGISTRY.built("distillation", options)
    distillation.prepare(student, teacher.model, _NothingCut({}), ())
    try:
        yield [distillation]
    finally:
        distillation.close()
