"""Worker processes, which end with the run that started them, and the lock that gives a folder to one run at a time."""

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

    The system releases the lock when the process ends, however it ends.

    Raises:
        InputError: another process has locked it, or it cannot be written.
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
