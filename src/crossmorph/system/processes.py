"""Worker processes, which end with the run that started them, and the lock that gives a folder to one run at a time."""

import contextlib
import multiprocessing
import os
import platform
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from crossmorph.errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
# Windows locks bytes against reading too: this one lies beyond the text that says who has the lock.
LOCKED_BYTE = 1 << 30


def workers(count: int) -> ProcessPoolExecutor:
    """New processes that end as soon as the process that started them ends, even if that was killed.

    Otherwise they would finish their task, and write into a folder that the next run has locked by then.
    """
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Lock a folder, created if it is missing, for one run.

    The system releases the lock when the process ends, however it ends: ``flock`` on Linux and macOS, the lock of a
    byte on Windows.

    Raises:
        InputError: another process has locked it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}; expected a folder that can be written") from error
    with stream:
        try:
            _lock(stream.fileno())
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            raise InputError(f"{folder}: {holder} is writing into it; expected a folder of its own") from None
        except OSError as error:
            raise InputError(f"{folder}: cannot be locked ({error.strerror or error})") from error
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {platform.node()}")
        stream.flush()
        yield
        stream.truncate(0)


def _lock(descriptor: int) -> None:
    """Lock a file until it is closed. Raises BlockingIOError where another process has locked it."""
    if sys.platform == "win32":
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:  # what it raises where the byte is locked
            raise BlockingIOError(*error.args) from error
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
