"""Standard output."""

from rich.console import Console

LOG_WIDTH = 160
"""Columns of a table in a log, which nobody resizes."""


def stdout() -> Console:
    """Standard output: a terminal's own width, or wide enough for a table where there is none."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=LOG_WIDTH)
