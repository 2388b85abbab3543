"""SIGINT and SIGTERM as one exception."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from salf_serving.errors import ServingError


class StopRequested(BaseException):
    """A signal asked for the end; no error, so that nothing on the way takes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stop_signals() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into `StopRequested`; further ones change nothing while the server stops."""
    if threading.current_thread() is not threading.main_thread():
        raise ServingError("serve must be called from the main thread, which gets the signals; use launch elsewhere")
    asked = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise StopRequested(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
