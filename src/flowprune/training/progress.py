"""What a person sees while a model trains: one line that moves, on standard error."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """A bar over all steps with the last epoch's figures; silent where ``visible`` is False."""

    def __init__(self, title: str, steps: int, done: int, visible: bool) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            disable=not visible,
            transient=True,
        )
        self._task = self._bar.add_task(title, total=max(steps, 1), completed=done, figures="")

    def step(self) -> None:
        """One batch is done."""
        self._bar.advance(self._task)

    def figures(self, text: str) -> None:
        """Show the figures of an epoch."""
        self._bar.update(self._task, figures=text)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        self._bar.stop()
