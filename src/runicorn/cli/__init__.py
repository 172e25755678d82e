"""The command line. The only place that prints errors and picks exit codes."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from runicorn._version import __version__
from runicorn.errors import RunicornError
from runicorn.manifest.rules import visible

INTERRUPTED = 130
DEBUG_VARIABLE = "RUNICORN_DEBUG"
_PROGRAM = "runicorn"


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, not when they are listed.

    Attributes:
        lazy: name of a command -> its module, which calls it ``command``, and the line of the group's help.
    """

    lazy: dict[str, tuple[str, str]] = {  # noqa: RUF012 - a constant
        "explain": ("explain", "Tell why a file is, or is not, in a mirror."),
        "generate-manifest": ("generate_manifest", "Publish what a root of runs holds."),
        "remote": ("remote", "Give sources names."),
        "service": ("service", "Let a server publish by itself."),
        "status": ("status", "Tell how fresh a mirror is, or what is published of a root."),
        "sync": ("sync", "Bring a local mirror to the state of a root."),
        "verify": ("verify", "Compare a mirror with what was published."),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        del ctx
        return sorted(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, or None."""
        del ctx
        if cmd_name not in self.lazy:
            return None
        module = importlib.import_module(f"{__name__}.{self.lazy[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.lazy[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, name=_PROGRAM, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=_PROGRAM)
def group() -> None:
    """Mirror machine-learning runs from a server."""


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    del signum, frame
    raise KeyboardInterrupt


@contextmanager
def _unwinding_on_term() -> Iterator[None]:
    """Make SIGTERM end the program like Ctrl-C: every block is left in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fill_standard_streams() -> None:
    """A standard stream that whoever started us has closed leads nowhere: no file that is opened next may
    take its number, for ssh would write into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            # Beside the number: that may be a file by now.
            setattr(sys, name, Path(os.devnull).open("w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def _say(text: str, hint: str | None = None) -> None:
    with suppress(OSError):  # when nothing can be said, the exit code still tells what happened
        click.echo(f"{_PROGRAM}: {visible(text)}", err=True)
        if hint:
            click.echo(f"hint: {visible(hint)}", err=True)


def _report(error: RunicornError) -> int:
    _say(str(error), error.hint)
    return error.exit_code


def _show(error: click.ClickException) -> int:
    with suppress(OSError):
        error.show()
    return error.exit_code


def _forget_interrupt() -> None:
    """Python ends by SIGINT, whatever the exit code, when Ctrl-C hit it in the middle of an `exec` of
    text, as making a dataclass does; the next such text clears its mind."""
    eval("0")  # noqa: S307


def _close_output() -> None:
    """The reader of our output is gone: let the interpreter not fail on it again."""
    if sys.stdout is None:
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())


def _is_working_folder_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _system_failed(error: OSError) -> int:
    """The working folder was removed; or the result could not be written, because its reader is gone or the
    disk below it is full."""
    if isinstance(error, FileNotFoundError) and not error.filename and _is_working_folder_gone():
        _say("the working folder is not there any more", "change to another one, or name all folders from /")
        return 1
    if not isinstance(error, BrokenPipeError) and (error.errno != errno.ENOSPC or error.filename):
        raise error
    _close_output()
    if not isinstance(error, BrokenPipeError):
        _say(f"what was asked for is done, but the result cannot be written: {error.strerror}")
    return 1


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    result = group.main(arguments, prog_name=_PROGRAM, standalone_mode=False)
    if sys.stdout is not None:
        sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _guarded(argv: Sequence[str] | None) -> int:
    try:
        return _run(argv)
    except RunicornError as error:
        return _report(error)
    except click.ClickException as error:
        return _show(error)
    except (click.Abort, KeyboardInterrupt):
        _say("stopped")
        _forget_interrupt()
        return INTERRUPTED
    except OSError as error:
        return _system_failed(error)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; default those of the process.

    Returns:
        The exit code.
    """
    _fill_standard_streams()
    with _unwinding_on_term():
        try:
            return _guarded(argv)
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE) == "1":
                raise
            _say(f"internal error: {type(error).__name__}: {error}")
            return 1
        finally:
            if argv is None:
                gc.freeze()  # the process ends: looking for cycles once more would only take time
