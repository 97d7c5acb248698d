"""Signals that stop a run after the step in progress."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: A second SIGINT within these seconds counts as the first: `timeout` signals a process, and then
#: its group.
SAME_SIGNAL = 1.0


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT (Ctrl-C) set, so that the loop can finish its step and save.

    Ctrl-C again aborts at once.
    """
    event = threading.Event()
    first = math.inf

    def interrupted(*_: object) -> None:
        nonlocal first
        if time.monotonic() > first + SAME_SIGNAL:
            raise KeyboardInterrupt
        if not event.is_set():
            # Not by print: the signal may have interrupted a print.
            os.write(2, b"\nstopping after this step; Ctrl-C again aborts without saving\n")
        first = min(first, time.monotonic())
        event.set()

    handlers = {signal.SIGTERM: lambda *_: event.set(), signal.SIGINT: interrupted}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
