"""Commands in forked processes, and how to kill them; `faults.py` and `conditions.py` use them."""

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from crossmorph.cli.main import main as crossmorph_main

LIMIT = 300.0  # seconds after which a command counts as hung
ORPHANED = 10.0  # seconds in which what a killed process has begun must end too
CALLS = ((os, "replace"), (os, "fsync"), (Path, "touch"), (Path, "unlink"), (Path, "replace"), (Path, "mkdir"))


class Ended(NamedTuple):
    """How a process ended: exit code, or minus the signal; its error output; seconds."""

    code: int
    errors: str
    seconds: float


def start(words: tuple[str, ...], folder: Path, prepare: Callable[[], object] | None = None) -> int:
    """Run a command of crossmorph in a forked process and session of its own, in a folder; its number."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder.parent / f".{folder.name}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        # Whoever forked, pytest among them, may have put something else in their place.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        sys.argv = ["crossmorph", *words]
        if prepare:
            prepare()
        crossmorph_main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        os.write(2, f"Traceback: {type(error).__name__}: {error}\n".encode())
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def wait(process: int, folder: Path, kill_after: float | None = None, group: bool = True) -> Ended:
    """Wait for a process, or kill it after so many seconds, alone or with all it has begun."""
    began = time.monotonic()
    allowed = LIMIT if kill_after is None else kill_after
    while True:
        number, status = os.waitpid(process, os.WNOHANG)
        if number:
            break
        if time.monotonic() - began > allowed:
            (os.killpg if group else os.kill)(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            break
        time.sleep(0.002)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    errors = folder.parent / f".{folder.name}.stderr"
    return Ended(code, errors.read_text(errors="replace") if errors.exists() else "", time.monotonic() - began)


def run(words: tuple[str, ...], folder: Path, prepare: Callable[[], object] | None = None) -> Ended:
    """Run a command to its end."""
    return wait(start(words, folder, prepare), folder)


def die_at_call(number: int, after: bool) -> None:
    """Have this process kill itself at its so-manieth call of those that change names or reach the disk."""
    made = 0

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal made
            made += 1
            if made == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if made == number and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for owner, name in CALLS:
        setattr(owner, name, deadly(getattr(owner, name)))


def die_at_byte(size: int) -> None:
    """Have the system end this process when a file of its grows beyond a size."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def count_calls(path: Path) -> None:
    """Have this process leave the number of its calls, as `die_at_call` counts them, in a file."""
    made = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal made
            made += 1
            with path.open("w") as stream:
                stream.write(str(made))
            return function(*arguments, **options)

        return call

    for owner, name in CALLS:
        setattr(owner, name, counted(getattr(owner, name)))


def survivors(session: int) -> list[int]:
    """Processes of a session that still run some seconds after its first one was killed; they are ended here."""
    deadline = time.monotonic() + ORPHANED
    while (left := _of_session(session)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return left


def _of_session(session: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, number = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(number) == session and state != "Z":
                found.append(int(folder.name))
    return found
