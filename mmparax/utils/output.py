"""Ends a script whose output nobody reads any more, as in ``tools/doctor.py CONFIG | head``."""
import os
import sys
from collections.abc import Callable
from typing import Any

CLOSED_PIPE = 141  # what a shell says of a program that ended so: 128 + SIGPIPE


def end_at_closed_pipes() -> None:
    """Let the process end, silently and with exit code 141, as soon as it writes to a pipe that was closed.

    Whatever writes, ``print``, a log or a table: the libraries that do so meet no ``BrokenPipeError``, of which each would make
    something of its own. The signal SIGPIPE stays ignored, as closed sockets between processes are errors to be told.
    """
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and not hasattr(stream, 'ends_at_closed_pipe'):
            for name in ('write', 'flush'):
                setattr(stream, name, _guard(getattr(stream, name), stream))
            setattr(stream, 'ends_at_closed_pipe', True)  # noqa: B010 (a stream has no such attribute in its type)


def _guard(function: Callable[..., Any], stream: Any) -> Callable[..., Any]:

    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except BrokenPipeError:
            # What is still in the buffer goes nowhere when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            raise SystemExit(CLOSED_PIPE) from None

    return call
