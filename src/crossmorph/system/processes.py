"""Tasks on processes or a cluster, and the lock that gives a folder to one run at a time.

Processes end with the run that started them. A task is given out once, and again only when its process died.
"""

import contextlib
import multiprocessing
import os
import platform
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from crossmorph.errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
# Windows locks bytes against reading too: this one lies beyond the text that says who has the lock.
LOCKED_BYTE = 1 << 30
CONNECT_SECONDS = 20.0
DIED = "its process died, and once more with no other task at work: killed, or out of memory"
Task = TypeVar("Task")
Result = TypeVar("Result")


class Outcome(NamedTuple, Generic[Task, Result]):
    """A task, and what its function returned, or why there is nothing."""

    task: Task
    result: Result | Exception


def on_processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int
) -> Generator[Outcome[Task, Result], None, None]:
    """Do every task in one of so many processes of this machine.

    When a process dies, the tasks that were at work are tried again, each alone.

    Args:
        work: what to do with a task; it can be imported by its name.
        tasks: in the order in which they begin.
        jobs: processes.

    Yields:
        Outcomes as they come.
    """
    waiting = list(tasks)
    while waiting:
        suspects, waiting = yield from _until_broken(work, waiting, jobs)
        for task in suspects:
            again, _ = yield from _until_broken(work, [task], 1)
            if again:
                yield Outcome(task, InputError(DIED))


def _until_broken(
    work: Callable[[Task], Result], tasks: list[Task], jobs: int
) -> Generator[Outcome[Task, Result], None, tuple[list[Task], list[Task]]]:
    """Yield outcomes until all are done or a process dies; returns the tasks then at work, and those not begun."""
    waiting = deque(tasks)
    running: dict[Future[Result], Task] = {}
    # Spawned: a forked copy of a process that has used PyTorch's threads may hang.
    with workers(jobs) as pool:
        broken = False
        while (waiting or running) and not broken:
            # Never more than are at work, so that a death points at few.
            while waiting and len(running) < jobs and not broken:
                try:
                    future = pool.submit(work, waiting[0])
                except BrokenProcessPool:
                    broken = True
                else:
                    running[future] = waiting.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    broken = True
                else:
                    task = running.pop(future)
                    yield Outcome(task, error if isinstance(error, Exception) else future.result())
    return list(running.values()), list(waiting)


def on_cluster(
    work: Callable[[Task], Result], tasks: Sequence[Task], address: str
) -> Generator[Outcome[Task, Result], None, None]:
    """Do every task on an existing Dask cluster, which gives the tasks of a worker that dies to the others.

    Arguments as of :func:`on_processes`; ``address``: of the scheduler, ``tcp://HOST:PORT``.

    Raises:
        InputError: no Dask here, or no scheduler there.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise InputError(f"--scheduler {address}: expected the package distributed, pip install distributed") from None
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--scheduler {address}: {sentence(error)}; expected a Dask scheduler's address") from error
    with client:
        given = {client.submit(work, task, pure=False): task for task in tasks}
        for future in as_completed(given, loop=client.loop):
            try:
                result = future.result()
            except Exception as error:  # the workers that had it died, or cannot run it
                result = error
            yield Outcome(given[future], result)


def sentence(error: BaseException) -> str:
    """An error as one line; of errors that are not the input's, with their type."""
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


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
