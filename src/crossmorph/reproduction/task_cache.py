"""Cells of a reproduction, done in processes: each is cached by all that it depends on, and is never done twice."""

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

from crossmorph.system.environment import environment, progress_bar
from crossmorph.system.files import brief, write_whole

DONE = "done.json"
POLL_SECONDS = 2.0


class FailedCellsError(RuntimeError):
    """Cells that could not be done; the others are."""


class Cell(NamedTuple):
    """One thing to be done.

    Attributes:
        name: for people, and of the folder.
        folder: of its results; its name ends in a hash of all that the cell depends on.
        seconds: that it takes on one core, roughly: for the order, and for the time left.
        iterations: of training in it; 0 where there is none.
        function: does it, in a process of its own; takes ``arguments``.
        arguments: that can be pickled.
    """

    name: str
    folder: Path
    seconds: float
    iterations: int
    function: Callable[..., None]
    arguments: tuple[Any, ...]

    @property
    def done(self) -> bool:
        """Whether it was finished, now or by an earlier run."""
        return (self.folder / DONE).exists()


def cell_folder(cache: Path, name: str, depends_on: object) -> Path:
    """The folder of a cell: two cells that depend on the same things are one."""
    key = json.dumps(depends_on, sort_keys=True, default=str)
    return cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def do_cells(cells: Sequence[Cell], pool: ProcessPoolExecutor, phase: str) -> None:
    """Do the cells that are not done yet, the longest first, in the pool's processes of one thread each.

    ``phase`` says what they are for, in the progress.

    Raises:
        FailedCellsError: some failed; the others were finished first.
    """
    waiting = sorted((cell for cell in cells if not cell.done), key=lambda cell: -cell.seconds)
    if not waiting:
        return
    failures: list[str] = []
    shown = _Progress(waiting, phase)
    running: dict[Future[None], Cell] = {pool.submit(perform, cell): cell for cell in waiting}
    try:
        while running:
            finished, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
            for future in finished:
                cell = running.pop(future)
                error = future.exception()
                if error:
                    failures.append(f"{cell.name}: {type(error).__name__}: {brief(error)}")
                shown.finished(cell, error)
            shown.update(running.values())
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        shown.close()
    if failures:
        raise FailedCellsError(f"{len(failures)} of {len(cells)} cells failed: {'; '.join(failures)}")


def perform(cell: Cell) -> None:
    """Do one cell, on one thread, and mark it done."""
    torch.set_num_threads(1)
    cell.folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    cell.function(*cell.arguments)
    record = {"cell": cell.name, "seconds_of_last_run": round(time.perf_counter() - began, 1), **environment()}
    write_whole(cell.folder / DONE, (json.dumps(record, indent=2) + "\n").encode())


class _Progress:
    """One bar over all cells with the time left; where there is no terminal, a line a cell on standard error."""

    def __init__(self, cells: Sequence[Cell], phase: str) -> None:
        self.phase = phase
        self.total = sum(cell.seconds for cell in cells)
        self.ended = 0.0
        self.first = self._at = sum(_fraction(cell) * cell.seconds for cell in cells)
        self.count, self.done = len(cells), 0
        self.began = time.monotonic()
        self.bar = progress_bar(True)
        self.bar.start()
        self.task: TaskID = self.bar.add_task(phase, total=round(self.total))

    def finished(self, cell: Cell, error: BaseException | None) -> None:
        self.ended += cell.seconds
        self.done += 1
        if self.bar.disable:
            word = "FAILED" if error else "done"
            print(
                f"{word} {cell.name} ({self.phase}: {self.done} of {self.count} cells, {self._left()})", file=sys.stderr
            )

    def update(self, running: Any) -> None:
        self._at = self.ended + sum(_fraction(cell) * cell.seconds for cell in running)
        label = f"{self.phase}, {self.done} of {self.count} cells"
        self.bar.update(self.task, completed=self._at, description=label)

    def _left(self) -> str:
        """The time left, at the speed since this run began."""
        elapsed, gained = time.monotonic() - self.began, max(self._at, self.ended) - self.first
        if gained <= 0:
            return "time left unknown"
        return f"about {elapsed / gained * (self.total - self._at) / 60:.0f} min left"

    def close(self) -> None:
        self.bar.stop()


def _fraction(cell: Cell) -> float:
    """How far a cell that trains has come, by its log."""
    if not cell.iterations:
        return 0.0
    logs = list(cell.folder.rglob("metrics.csv"))
    rows = list(csv.reader(logs[0].read_text().splitlines())) if logs else []
    last = next((int(row[0]) for row in reversed(rows) if row and row[0].isdigit()), 0)
    return min(last / cell.iterations, 1.0)
