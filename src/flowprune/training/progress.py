"""What a person sees while something takes long: a line that moves, on standard error; in a log, a line every ten seconds."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from flowprune.training.log_lines import LinesNowAndThen


class TrainingProgress:
    """A bar over all steps with the last epoch's figures, or lines without a terminal; silent where ``visible`` is False."""

    def __init__(self, title: str, steps: int, done: int, visible: bool) -> None:
        self._lines = LinesNowAndThen()
        self._in_lines = visible and not self._lines.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            disable=not visible or self._in_lines,
            transient=True,
        )
        self._title, self._steps, self._done, self._figures = title, max(steps, 1), done, ""
        self._task = self._bar.add_task(title, total=self._steps, completed=done, figures="")

    def step(self) -> None:
        """One batch is done."""
        self.at(self._done + 1, self._steps, self._figures)

    def figures(self, text: str) -> None:
        """Show the figures of an epoch."""
        self.at(self._done, self._steps, text)

    def at(self, done: int, steps: int, figures: str) -> None:
        """Show that so many of the steps are done."""
        self._done, self._steps, self._figures = done, steps, figures
        if self._in_lines:
            self._lines.say(f"{self._title}: {100 * done / steps:.0f} %{', ' if figures else ''}{figures}")
        else:
            self._bar.update(self._task, completed=done, total=steps, figures=figures)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        self._bar.stop()
