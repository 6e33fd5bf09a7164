"""How a command ends that is told to stop, or that the disk lets down: in one line that says what
goes on, with nothing left running."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any, NoReturn

import click

from lamina.files import disk_fault

_SHELL = 128
"""What a shell adds to the number of the signal that ended a command."""


class Ended(click.ClickException):
    """A command is over before its end. The message is the whole line."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """On stderr, as `InputError` is."""
        click.echo(self.message, file=file, err=file is None)


@contextmanager
def ending_in_a_line(again: str) -> Iterator[None]:
    """While within, SIGTERM stops the command as Ctrl-C does; a second one ends it at once.

    `again` is what a person gives to go on. Raises Ended where the command was stopped (with 130 or
    143, as a shell has it), or where the disk is at fault (with 1).
    """
    received: list[int] = []
    try:
        with _sigterm_interrupts(received):
            yield
    except KeyboardInterrupt as stop:
        # Ray raises another KeyboardInterrupt than the one that it meets.
        number = signal.SIGTERM if received else signal.SIGINT
        raise Ended(f"stopped by {number.name}; {again}", _SHELL + number) from stop
    except OSError as error:
        fault = disk_fault(error)
        if fault is None:
            raise
        raise Ended(f"{fault}; {again}", 1) from error


@contextmanager
def _sigterm_interrupts(received: list[int]) -> Iterator[None]:
    """While within, SIGTERM is a KeyboardInterrupt, and is added to `received`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        received.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
