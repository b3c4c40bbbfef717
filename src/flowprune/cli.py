"""The command line. It starts quickly: torch is imported by the commands that need it, when they run."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from flowprune import __version__
from flowprune.commands import EXAMPLES, GROUPS
from flowprune.commands.interruption import advice, given
from flowprune.commands.old_spellings import todays
from flowprune.commands.terminal import at_work
from flowprune.errors import FlowpruneError, FlowpruneWarning

EXIT_REFUSED, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 1, 130, 143
TRACEBACK = "FLOWPRUNE_TRACEBACK"
_OF_EXTRA = ("torchvision", "plotly", "sklearn", "PIL")
"""What the extra ``flowprune[run]`` brings along."""

app = typer.Typer(
    name="flowprune",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="flowprune COMMAND -h shows what a command takes, with an example.",
)


@app.callback(invoke_without_command=True)
def flowprune(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the version and leave."),
) -> None:
    """Train with feature flow regularization, prune what the flow does not need, get back a smaller PyTorch model."""
    if version:
        typer.echo(f"flowprune {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _group, _commands in GROUPS.items():
    for _command in _commands:
        app.command(rich_help_panel=_group, epilog="\n\n".join(("Example:", *EXAMPLES[_command])))(_command)


class Terminated(BaseException):
    """The system asked this process to end (SIGTERM)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Whatever goes wrong is one line on standard error: 2 for what the user can mend, 1 for what they cannot (an error nobody
    foresaw; FLOWPRUNE_TRACEBACK=1 shows where), 130 after an interruption, 143 after a SIGTERM.
    """
    if str(Path.cwd()) not in sys.path:
        # `package.module:function` means a module of the user's, here; last, so that nothing here hides an installed one.
        sys.path.append(str(Path.cwd()))
    try:
        words = todays(sys.argv[1:] if arguments is None else arguments)
        given(words)
        with _warnings_in_one_line(), _termination_raised(), at_work(words):
            returned = app(args=words, prog_name="flowprune", standalone_mode=False)
    except FlowpruneError as error:
        return _refused(str(error))
    except Terminated:
        return _say(f"terminated{advice()}", EXIT_TERMINATED)
    except (KeyboardInterrupt, typer.Abort):
        return _say(f"interrupted{advice()}", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (`flowprune methods | head`). Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        # Errors of usage are of a class that typer keeps to itself; what marks them is that they know how to be shown.
        shown = getattr(error, "format_message", None)
        if callable(shown):
            return _refused(f"{shown()} (flowprune --help shows what there is)")
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _OF_EXTRA:
            missing = str(error.name).partition(".")[0]
            return _refused(f"this needs {missing}, which is not installed: pip install 'flowprune[run]'")
        if isinstance(error, MemoryError) or re.search("out of memory|allocate memory", str(error)):
            return _refused(f"the memory is not enough: {error}"[:300])
        return _say(
            f"error: {type(error).__name__}: {error} (this should not happen; {TRACEBACK}=1 shows where)", EXIT_FAILED
        )
    if returned == EXIT_INTERRUPTED:  # some versions of typer turn the interruption into its exit code
        return _say(f"interrupted{advice()}", EXIT_INTERRUPTED)
    return returned if isinstance(returned, int) else 0


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """This package's warnings without the line of code they come from; other packages' as Python shows them."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, FlowpruneWarning):
                print(f"warning: {message}", file=sys.stderr)
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        yield


@contextmanager
def _termination_raised() -> Iterator[None]:
    """Have SIGTERM end the work like an interruption, so that files are put away and the way to go on is said."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() != own:  # a child process that inherited this
            os._exit(EXIT_TERMINATED)
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refused(message: str) -> int:
    return _say(f"error: {message}", EXIT_REFUSED)


def _say(message: str, code: int) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return code
