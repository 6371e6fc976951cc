"""Tasks: run once, cached, repeated when their inputs change; a failure keeps the others; workers end with the run."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import pytest

from crossmorph.reproduction.task_cache import FailedTasksError, Task, run_tasks, task_folder
from crossmorph.system.processes import workers


def count(folder: Path) -> None:
    """Leave a trace of every call."""
    with (folder / "calls").open("a") as stream:
        stream.write("x")


def fail(_: Path) -> None:
    raise ValueError("no such luck")


def task(folder: Path, name: str, function=count, seconds: float = 1.0) -> Task:
    return Task(name, folder / name, seconds, 0, function, (folder / name,))


def calls(folder: Path, name: str) -> int:
    return len((folder / name / "calls").read_text())


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with workers(1) as made:
        yield made


def test_a_task_is_run_once(tmp_path: Path, pool: ProcessPoolExecutor, capfd: pytest.CaptureFixture[str]) -> None:
    tasks = [task(tmp_path, name) for name in ("one", "two")]
    run_tasks(tasks, pool, "training")
    run_tasks(tasks, pool, "training")
    assert [calls(tmp_path, name) for name in ("one", "two")] == [1, 1]
    assert all(each.done for each in tasks)
    assert "(training: 2 of 2 tasks" in capfd.readouterr().err


def test_a_failure_is_told_and_the_others_are_kept(tmp_path: Path, pool: ProcessPoolExecutor) -> None:
    tasks = [task(tmp_path, "bad", fail, seconds=9), task(tmp_path, "good")]
    with pytest.raises(FailedTasksError, match=r"1 of 2 tasks failed: bad: ValueError: no such luck"):
        run_tasks(tasks, pool, "training")
    assert calls(tmp_path, "good") == 1
    assert not tasks[0].done
    repaired = [task(tmp_path, "bad"), tasks[1]]
    run_tasks(repaired, pool, "training")
    assert calls(tmp_path, "good") == 1
    assert repaired[0].done


def test_a_folder_belongs_to_all_that_a_task_depends_on(tmp_path: Path) -> None:
    same = task_folder(tmp_path, "a", {"x": 1, "y": [2, 3]})
    assert same == task_folder(tmp_path, "a", {"y": [2, 3], "x": 1})
    assert same != task_folder(tmp_path, "a", {"x": 1, "y": [2, 4]})
    assert same != task_folder(tmp_path, "b", {"x": 1, "y": [2, 3]})


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    """Two runs on one folder would write each other's files: the workers of a dead run must not go on."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, pathlib, sys, time
            from crossmorph.system.processes import workers
            from crossmorph.reproduction.task_cache import Task, run_tasks

            def work(folder):
                (folder / "process").write_text(str(os.getpid()))
                time.sleep(60)

            if __name__ == "__main__":
                folder = pathlib.Path(sys.argv[1])
                with workers(1) as pool:
                    run_tasks([Task("long", folder, 1.0, 0, work, (folder,))], pool, "training")
            """
        )
    )
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path / "task")], stderr=subprocess.DEVNULL)
    note = tmp_path / "task" / "process"
    _until(lambda: note.exists() and note.read_text() != "")
    worker = int(note.read_text())
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    _until(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE)


def _until(true) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    pytest.fail("waited for a minute")
