"""Failures on stderr, in one line (a table in several), and an exit status.

1 for what went wrong, 2 for wrong use, 3 for what goes wrong again until somebody changes something (`salf score` and
`salf report` tell the two apart), 130 for Ctrl-C.
"""

import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

P = ParamSpec("P")
R = TypeVar("R")

FAILED, WRONG_USE, FAILED_FOR_GOOD, INTERRUPTED = 1, 2, 3, 130


class UsageFailure(Exception):  # noqa: N818 - it is the user's call that is wrong, not the program
    """The command was called in a way that cannot work; the message says how to call it."""


def stderr_console() -> Console:
    """A console for everything that is not a command's answer."""
    return Console(stderr=True)


def report(message: str, *, line_by_line: bool = False) -> None:
    """Print one red line on stderr; or all of them, where they make a table."""
    text = message if line_by_line else " ".join(message.split())
    stderr_console().print(Text(text, style="red"), soft_wrap=True)


def one_line_failures(*, command: str, extra: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a command report its failures in one line instead of a trace.

    Args:
        command: its name, for messages.
        extra: of the distribution, that brings what the command needs.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with _reported(command, extra):
                return function(*args, **kwargs)

        return run

    return wrap


@contextmanager
def _reported(command: str, extra: str | None) -> Iterator[None]:
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except UsageFailure as error:
        report(str(error))
        raise typer.Exit(WRONG_USE) from error
    except ImportError as error:
        if extra is not None and not _is_of_salf(error) and not (error.name or "").startswith("salf_"):
            missing = error.name or str(error)
            report(f"salf {command} needs the extra '{extra}' ({missing} is missing): pip install 'salf[{extra}]'")
        elif _is_of_salf(error):
            report(str(error))
        else:
            raise
        raise typer.Exit(WRONG_USE) from error
    except Exception as error:
        # A room's own errors say what to do; an OSError names the file. Anything else is a bug and shows its trace.
        if not _is_of_salf(error) and not isinstance(error, OSError):
            raise
        report(in_words(error), line_by_line=getattr(error, "line_by_line", False))
        raise typer.Exit(FAILED_FOR_GOOD if getattr(error, "is_lasting", False) else FAILED) from error


def in_words(error: Exception) -> str:
    """What an error says; of the system's own, which file and why, without its number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


@contextmanager
def waiting(told: str) -> Iterator[None]:
    """Say on stderr what is waited for, as long as that takes; nothing where nobody watches."""
    with stderr_console().status(escape(told)):
        yield


def _is_of_salf(error: BaseException) -> bool:
    """Whether a room defines the error's class; asking this way loads no room."""
    return any(kind.__module__.partition(".")[0].startswith("salf_") for kind in type(error).__mro__)


def write_aside(path: Path, text: str) -> None:
    """Write a file beside its place and rename it, so that nobody reads half of it.

    Raises:
        OSError: it cannot be written; names its place.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def print_json(value: object) -> None:
    """Print a value as JSON on stdout, and nothing else."""
    typer.echo(json.dumps(value, indent=1))
