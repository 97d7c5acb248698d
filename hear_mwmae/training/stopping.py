"""Signals that stop a run after the step in progress."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT (Ctrl-C) set, so that the loop can finish its step and save.

    Schedulers and `timeout` send a signal twice: to a process, and then to its group.
    """
    event = threading.Event()

    def stop(*_: object) -> None:
        if not event.is_set():
            os.write(2, b"\nstopping after this step\n")  # print may have been interrupted
        event.set()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
