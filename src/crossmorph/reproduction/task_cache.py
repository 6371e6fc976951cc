"""Tasks of a reproduction, run in processes: each is cached by everything it depends on, and is never run twice."""

import csv
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import TaskID

from crossmorph.system.environment import environment
from crossmorph.system.files import brief, write_whole
from crossmorph.system.progress import progress_bar

DONE = "done.json"
POLL_SECONDS = 2.0


class FailedTasksError(RuntimeError):
    """Some tasks failed; the others are finished."""


class Task(NamedTuple):
    """A training, scoring or timing.

    Attributes:
        name: for messages.
        folder: of its results; its name ends in a hash of everything the task depends on.
        seconds: estimated on one core: for the order of the tasks and the time left.
        iterations: of training in it; 0 where there is none.
        function: does the work, in a process of its own; is called with ``arguments``.
        arguments: which can be pickled.
    """

    name: str
    folder: Path
    seconds: float
    iterations: int
    function: Callable[..., None]
    arguments: tuple[Any, ...]

    @property
    def done(self) -> bool:
        """Whether it is finished, in this run or an earlier one."""
        return (self.folder / DONE).exists()


def task_folder(cache: Path, name: str, depends_on: object) -> Path:
    """The folder of a task: tasks of one name that depend on the same things are one task."""
    key = json.dumps(depends_on, sort_keys=True, default=str)
    return cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def run_tasks(tasks: Sequence[Task], pool: ProcessPoolExecutor, phase: str) -> None:
    """Run the tasks that are not done yet, the longest first, in the pool's processes of one thread each.

    ``phase`` names them in the progress: training, scoring or timing.

    Raises:
        FailedTasksError: some failed; the others were finished first.
    """
    waiting = sorted((task for task in tasks if not task.done), key=lambda task: -task.seconds)
    if not waiting:
        return
    failures: list[str] = []
    shown = _Progress(waiting, phase)
    running: dict[Future[None], Task] = {pool.submit(run_task, task): task for task in waiting}
    try:
        while running:
            finished, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
            for future in finished:
                task = running.pop(future)
                error = future.exception()
                if error:
                    failures.append(f"{task.name}: {type(error).__name__}: {brief(error)}")
                shown.finished(task, error)
            shown.update(running.values())
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        shown.close()
    if failures:
        raise FailedTasksError(f"{len(failures)} of {len(tasks)} tasks failed: {'; '.join(failures)}")


def run_task(task: Task) -> None:
    """Run one task, on one thread, and mark it done."""
    torch.set_num_threads(1)
    task.folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    task.function(*task.arguments)
    record = {"cell": task.name, "seconds_of_last_run": round(time.perf_counter() - began, 1), **environment()}
    write_whole(task.folder / DONE, (json.dumps(record, indent=2) + "\n").encode())


class _Progress:
    """One bar over all tasks with the time left; without a terminal, a line for each task on standard error."""

    def __init__(self, tasks: Sequence[Task], phase: str) -> None:
        self.phase = phase
        self.total = sum(task.seconds for task in tasks)
        self.ended = 0.0
        self.first = self._at = sum(_fraction(task) * task.seconds for task in tasks)
        self.count, self.done = len(tasks), 0
        self.began = time.monotonic()
        self.bar = progress_bar(True)
        self.bar.start()
        self.bar_task: TaskID = self.bar.add_task(phase, total=round(self.total))

    def finished(self, task: Task, error: BaseException | None) -> None:
        self.ended += task.seconds
        self.done += 1
        if self.bar.disable:
            word = "FAILED" if error else "done"
            print(
                f"{word} {task.name} ({self.phase}: {self.done} of {self.count} tasks, {self._left()})", file=sys.stderr
            )

    def update(self, running: Any) -> None:
        self._at = self.ended + sum(_fraction(task) * task.seconds for task in running)
        label = f"{self.phase}, {self.done} of {self.count} tasks"
        self.bar.update(self.bar_task, completed=self._at, description=label)

    def _left(self) -> str:
        """The time left, at the speed since the start of this run."""
        elapsed, gained = time.monotonic() - self.began, max(self._at, self.ended) - self.first
        if gained <= 0:
            return "time left unknown"
        return f"about {elapsed / gained * (self.total - self._at) / 60:.0f} min left"

    def close(self) -> None:
        self.bar.stop()


def _fraction(task: Task) -> float:
    """Fraction of a training task that is done, by its log."""
    if not task.iterations:
        return 0.0
    logs = list(task.folder.rglob("metrics.csv"))
    rows = list(csv.reader(logs[0].read_text("utf-8").splitlines())) if logs else []
    last = next((int(row[0]) for row in reversed(rows) if row and row[0].isdigit()), 0)
    return min(last / task.iterations, 1.0)
