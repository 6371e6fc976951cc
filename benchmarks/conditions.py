"""Conditions in which a command cannot do its work, or not alone; `faults.py` calls them and prints what came of it."""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from faults import Work, check, digests, essence, finals, fresh
from processes import Ended, run, start, wait

DISK = 1 << 15  # bytes of the full disk: less than a registration writes
MEMORY = tuple(mebibytes << 20 for mebibytes in (0, 8, 32, 64, 128, 192))  # beyond what a process begins with
THREADS = (1, 2, 4)
KEPT = ("config.yaml", "environment.json", "metrics.csv", "summary.csv", "result.json")  # what a run says of itself


class Found(NamedTuple):
    """A condition, how often it was tried, how often what was expected came about, and what came otherwise."""

    condition: str
    expected: str
    tried: int
    faults: list[str]


def conditions(works: list[Work], temporary: Path) -> bool:
    """Try every condition and print a table; whether anything else came about than was expected."""
    print("\n| condition | expected | tried | otherwise |\n|---|---|---|---|", flush=True)
    bad = False
    for found in _all(works, temporary / "case"):
        print(f"| {found.condition} | {found.expected} | {found.tried} | {len(found.faults)} |", flush=True)
        for fault in found.faults:
            print(f"{found.condition}: {fault}", file=sys.stderr, flush=True)
        bad |= bool(found.faults)
    return bad


def _all(works: list[Work], folder: Path) -> Iterator[Found]:
    one_line = "one line, exit code 2, no output"
    yield Found("disk full (a small tmpfs)", one_line, *_each(works, folder, full_disk))
    yield Found("files may not grow (RLIMIT_FSIZE)", one_line, *_each(works, folder, small_files))
    yield Found("target folder read-only", one_line, *_each(works, folder, read_only))
    yield Found(
        "standard output full (/dev/full)", "not exit code 0, no traceback", *_each(works[:1], folder, full_output)
    )
    yield Found(
        "out of memory (RLIMIT_AS)", "one line, not exit code 0, no output", *_each(works[:1], folder, no_memory)
    )
    yield Found("two writers of one target", "one whole result or the other", *_each(works, folder, two_writers))
    yield Found("1, 2, 4 threads and new processes", "the same bits", *_each(works[:1], folder, threads))


def _each(works: list[Work], folder: Path, condition: Callable[[Work, Path], list[list[str]]]) -> tuple[int, list[str]]:
    """Tries of a condition on every command, each with its faults; inputs must not change."""
    tried, faults = 0, []
    for work in works:
        fresh(folder)
        before = digests(work.inputs)
        tries = condition(work, folder)
        tried += len(tries)
        faults += [f"{work.name}: {fault}" for each in tries for fault in each]
        faults += [f"{work.name}: an input changed"] if digests(work.inputs) != before else []
    return tried, faults


def refused(ended: Ended, folder: Path, codes: tuple[int, ...] = (2,)) -> list[str]:
    """What is wrong with a refusal: its exit code, more than one line, or files that were left."""
    faults = []
    lines = ended.errors.strip().splitlines()
    if ended.code not in codes or len(lines) != 1 or not lines[0].startswith("crossmorph: "):
        faults.append(f"exit code {ended.code}, said {len(lines)} lines: {ended.errors[-300:]!r}")
    left = [name for name in finals(folder) if not name.endswith(KEPT)]
    return [*faults, *(f"left {name}" for name in left)]


def full_disk(work: Work, folder: Path) -> list[list[str]]:
    """The target on a disk of 32 KiB; of a run of many pairs the failure is in the summary."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", folder], capture_output=True).returncode:
        return []
    try:
        return [_failed(work, run(work.words, folder), folder)]
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def small_files(work: Work, folder: Path) -> list[list[str]]:
    """No file may be larger than a few KiB: writing raises EFBIG, as a full disk raises ENOSPC."""
    tries = []
    for size in (1000, 4000):  # what is said must fit
        fresh(folder)
        tries.append(_failed(work, run(work.words, folder, lambda size=size: _limit_files(size)), folder))
    return tries


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _failed(work: Work, ended: Ended, folder: Path) -> list[str]:
    """Of many pairs, each may fail on its own, which is exit code 3."""
    if work.name == "register --pairs" and ended.code == 3:
        return ["a traceback"] if "Traceback" in ended.errors else []
    return refused(ended, folder)


def read_only(work: Work, folder: Path) -> list[list[str]]:
    """A folder in which nothing can be made, not even by root: a mount that is read-only, or one of the kernel's."""
    mounted = not subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder], capture_output=True).returncode
    try:
        return [refused(run(work.words, folder if mounted else Path("/proc/self")), folder)]
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


def full_output(work: Work, folder: Path) -> list[list[str]]:
    """What is printed cannot be written."""
    ended = run(work.words, folder, lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 1))
    return [["exit code 0"] if ended.code == 0 else ["a traceback"] if "Traceback" in ended.errors else []]


def no_memory(work: Work, folder: Path) -> list[list[str]]:
    """Less memory than a registration takes, to none at all; a run that gets by on it is fine."""
    tries = []
    for more in MEMORY:
        fresh(folder)
        ended = run(work.words, folder, lambda more=more: _limit_memory(more))
        tries.append([] if ended.code == 0 else refused(ended, folder, (1, 2, 3)))
    return tries


def _limit_memory(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def two_writers(work: Work, folder: Path) -> list[list[str]]:
    """The same command twice at once, and with the images changed over where it has two."""
    wholes = []
    commands = [work.words, _exchanged(work.words)]
    for words in commands:
        fresh(folder)
        run(words, folder)
        wholes.append({name: essence(path) for name, path in finals(folder).items()})
    fresh(folder)
    ends = [wait(process, folder) for process in [start(words, folder) for words in commands]]
    faults = [
        f"exit code {end.code}: {end.errors[-200:]!r}"
        for end in ends
        if end.code not in (0, 2) or "Traceback" in end.errors
    ]
    if all(end.code for end in ends):
        faults.append("neither ended well")
    for name, path in finals(folder).items():
        with contextlib.suppress(FileNotFoundError):
            if essence(path) not in [whole.get(name) for whole in wholes]:
                faults.append(f"{name} is neither's")
    return [faults]


def _exchanged(words: tuple[str, ...]) -> tuple[str, ...]:
    if words[0] == "register" and not words[1].startswith("-"):
        return ("register", words[2], words[1], *words[3:])
    return words


def threads(work: Work, folder: Path) -> list[list[str]]:
    """Moved image, transform and inverse by any number of threads, in forked and in new processes."""
    expected: dict[str, object] | None = None
    tries = []
    words = work.words[: work.words.index("--ants-prefix")]
    for number in THREADS:
        for new in (False, True):
            fresh(folder)
            command = (*words, "--threads", str(number), "--keep-failed")
            if new:
                environment = {key: value for key, value in os.environ.items() if "THREADS" not in key}
                subprocess.run(
                    [sys.executable, "-m", "crossmorph", *command],
                    cwd=folder, env=environment, capture_output=True, check=True,
                )  # fmt: skip
            else:
                run(command, folder)
            expected = expected or {name: essence(path) for name, path in finals(folder).items()}
            tries.append([f"{number} threads: {fault}" for fault in check(folder, expected, whole=True)])
    shutil.rmtree(folder)
    return tries
