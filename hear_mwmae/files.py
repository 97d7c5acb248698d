"""Files that are whole or not there, and work that is done by one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import HearMwmaeError

#: How temporary names end: a process that was killed may leave them behind.
UNFINISHED = ".tmp"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to: takes its place on success, and is removed on any failure."""
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        yield temporary
        with open(temporary, "r+b") as stream:
            os.fsync(stream)  # a machine that fails would keep the new name, and not what was written
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """OSError where :func:`replacing` could not write, before hours of work go into what is to be written."""
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    temporary.touch()
    temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not there."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def one_at_a_time(lock: Path, busy: str) -> Iterator[None]:
    """Holds the lock file ``lock``; where another process does, raises ValueError with the message ``busy``."""
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout as error:
        raise HearMwmaeError(busy) from error
    try:
        yield
    finally:
        held.release()
