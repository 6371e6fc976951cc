"""Runs that spread over processes: a folder belongs to one run at a time, and no worker outlives its run."""

import contextlib
import fcntl
import multiprocessing
import os
import platform
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from crossmorph.errors import InputError

LOCK = ".lock"


def workers(count: int) -> ProcessPoolExecutor:
    """Fresh processes that end at once when the one that asked for them does, even if that was killed.

    Else they would finish what they are at, and write beside the next run that has claimed the folder by then.
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
    """Hold a folder, made if need be, for one run.

    The system lets go of the lock when the process ends, however it ends.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("a+")
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}; expected a folder that can be written") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
