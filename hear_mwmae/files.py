"""Atomic writes, single-process locks, and names that are not UTF-8."""

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import HearMwmaeError, reason

#: Suffix of temporary names: a killed process may leave such files.
UNFINISHED = ".tmp"
#: Error codes of writing alone: a full disk, a full quota, a file too large.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Atomic write: yields a temporary name beside ``path``, which replaces ``path`` on success and
    is removed on failure.
    """
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        yield temporary
        with open(temporary, "r+b") as stream:
            os.fsync(stream)  # otherwise a crash could keep the new name without the content
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in FULL and error.filename is None:  # the system names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_folder_of(path: Path) -> None:
    """HearMwmaeError if there is no folder to write ``path`` into: checked before long work."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise HearMwmaeError(f"cannot write {path}: there is no folder {folder}")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    HearMwmaeError names a file that is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HearMwmaeError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise HearMwmaeError(f"{path} is not JSON: {error}") from error


def printable(path: str | os.PathLike) -> str:
    r"""A path as text that can be printed and stored as UTF-8: other bytes become ``\xff``.

    Python represents such bytes in a str as surrogates (``surrogateescape``). They identify the
    file, but terminals, Parquet and array files reject them. CSV files keep the bytes: read and
    write them with ``errors="surrogateescape"``.
    """
    escaped = re.sub(
        "[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", os.fspath(path)
    )
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def one_at_a_time(lock: Path, busy: str) -> Iterator[None]:
    """Holds the lock file ``lock``.

    If another process holds it, raises HearMwmaeError with the message ``busy``.
    """
    from filelock import FileLock, Timeout

    try:
        held = FileLock(lock, timeout=0).acquire()
    except Timeout as error:
        raise HearMwmaeError(busy) from error
    with held:
        yield
