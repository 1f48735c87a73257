"""Tells errors that Ctrl-C caused: an import that it interrupts may make another error of it."""
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType


class Interrupts:
    """Where a program was when it was interrupted: the running lines, as (code, number of the line)."""

    def __init__(self) -> None:
        self.lines: set[tuple[CodeType, int | None]] = set()

    def note(self, frame: FrameType | None) -> None:
        """Remember the lines that run, those of the last interrupt alone."""
        self.lines = {(each.f_code, number) for each, number in traceback.walk_stack(frame)}

    def explain(self, error: BaseException) -> bool:
        """Whether an error is an interrupt, or what became of one.

        One that was raised while an interrupt was handled has it in its context. C code drops the context: its error comes
        from a line that was running when the interrupt came.
        """
        seen: set[int] = set()
        cause: BaseException | None = error
        while cause is not None and id(cause) not in seen:
            if isinstance(cause, KeyboardInterrupt):
                return True
            seen.add(id(cause))
            cause = cause.__cause__ or cause.__context__
        *_, (frame, number) = list(traceback.walk_tb(error.__traceback__)) or [(None, None)]
        return frame is not None and (frame.f_code, number) in self.lines


@contextmanager
def watch_interrupts() -> Iterator[Interrupts]:
    """Note every SIGINT inside, which raises KeyboardInterrupt as ever.

    Yields:
        Interrupts: knows which errors came of them; NumPy and others turn an interrupt of their import into an ImportError.
    """
    seen = Interrupts()

    def note(number: int, frame: FrameType | None) -> None:
        seen.note(frame)
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
