"""Remembers Ctrl-C: an import that it interrupts may make another error of it."""
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def watch_interrupts() -> Iterator[list[int]]:
    """Note every SIGINT inside, which raises KeyboardInterrupt as ever.

    Yields:
        list: empty until the first; NumPy and others turn an interrupt of their import into an ImportError.
    """
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) != signal.default_int_handler:
        yield seen  # somebody else handles it, or nobody may
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, signal.default_int_handler)
