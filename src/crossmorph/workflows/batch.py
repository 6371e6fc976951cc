"""Many pairs, over processes of this machine or an existing Dask cluster: what is finished is not done again.

Every pair has a folder of its own with the moved image, both transforms, their records, the moved labels where the list
has any, and `result.json`, written last: a pair is finished when that holds the hash of its inputs and settings and all
files are there. A pair that cannot be registered, or of which a check fails, is recorded and the others go on. Whatever
is killed, a second call completes the rest.

The folder of a batch belongs to one run at a time. Within a run every pair is given out once, and again only when the
process that had it died.
"""

import contextlib
import csv
import hashlib
import json
import os
import time
from collections.abc import Callable, Generator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import find_card, shipped_models
from crossmorph.provenance.record import digest, plain_settings
from crossmorph.registration.settings import DEFAULTS, NAMED_INITS, Settings
from crossmorph.reports.batch_page import PAGE, THUMBNAIL, Line, keep_thumbnail, load_result, write_batch_page
from crossmorph.system.files import atomic_output, write_whole
from crossmorph.system.processes import Outcome, claimed, on_cluster, on_processes, sentence
from crossmorph.workflows.model_card import digests_of_weights
from crossmorph.workflows.outputs import LabelFiles, Outputs
from crossmorph.workflows.register import check_networks, check_settings
from crossmorph.workflows.register_files import NOT_KEPT, register_files

MOVED, TRANSFORM, INVERSE, LABELS = "moved.nii.gz", "transform.h5", "inverse.h5", "moved_labels.nii.gz"
RESULT, SUMMARY = "result.json", "summary.csv"
SUMMARY_SECONDS = 5.0  # between two states of the summary: written after each pair it would cost a long list its time


class Task(NamedTuple):
    """One pair, the folder of its result, its files, and how it is registered; all paths absolute."""

    name: str
    moving: Path
    fixed: Path
    folder: Path
    outputs: Outputs
    model: str | None
    settings: Settings
    device: str
    threads: int | None
    keep_failed: bool
    command: str


class Entry(NamedTuple):
    """A row of the summary; None is not known. ``checks``: those not passed, ``folding:warning; overlap:failed``."""

    name: str
    status: Literal["done", "skipped", "failed"]
    seconds: float | None = None
    folds_percent: float | None = None
    mutual_information_before: float | None = None
    mutual_information_final: float | None = None
    checks: str = ""
    error: str = ""


class Summary(NamedTuple):
    """What became of every pair, in the order of the list, and the CSV that says so."""

    path: Path
    entries: list[Entry]

    @property
    def page(self) -> Path:
        """The page to look through the pairs."""
        return self.path.with_name(PAGE)

    @property
    def done(self) -> int:
        """Pairs registered by this run."""
        return sum(entry.status == "done" for entry in self.entries)

    @property
    def skipped(self) -> int:
        """Pairs that were finished before."""
        return sum(entry.status == "skipped" for entry in self.entries)

    @property
    def failed(self) -> int:
        """Pairs that could not be registered, or of which a check failed."""
        return sum(entry.status == "failed" for entry in self.entries)

    @property
    def checks_failed(self) -> int:
        """Those of the failed that were registered and of which a check failed, in this run or before."""
        return sum(":failed" in entry.checks for entry in self.entries)


def register_batch(
    pairs_csv: str | Path,
    output: str | Path,
    model: str | None = None,
    settings: Settings = DEFAULTS,
    jobs: int = 1,
    scheduler: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    keep_failed: bool = False,
    command: str = "crossmorph.workflows.batch.register_batch, in Python",
) -> Summary:
    """Register every pair of a list into ``output/NAME/``; write ``output/summary.csv`` and ``output/index.html``.

    Called from a script, it needs the usual ``if __name__ == "__main__":``, since the processes begin by importing it.
    Workers of a cluster see the same files under the same paths, and have this package.

    Args:
        pairs_csv: the list, see :mod:`crossmorph.datasets.pairs`. ``moving``, ``fixed`` and ``moving_labels`` count; a
            ``name`` becomes a folder.
        output: the folder; made if need be.
        model: a shipped model's name, or a folder that ``train`` wrote; None is the shipped one of each pair's
            dimension.
        settings: how to register.
        jobs: processes of this machine.
        scheduler: address of a Dask scheduler, ``tcp://HOST:PORT``, to give the pairs to instead.
        device: a torch device, or ``auto``.
        threads: of the CPU for each pair; None shares this machine's among the processes, and leaves a cluster's alone.
        keep_failed: whether to write the outputs of pairs of which a check failed.
        command: what was called, for the records beside the transforms.

    Returns:
        An entry for each pair. Pairs that failed are counted, not raised.

    Raises:
        InputError: the list, a name in it, the model, the output folder or the scheduler cannot be used, an input lies
            among the outputs, or another run has the folder.
    """
    if jobs < 1:
        raise InputError(f"received {jobs} jobs; expected at least 1")
    model, settings = check_how(model, settings, device if scheduler is None else None)
    output = Path(output).absolute()
    pairs = read_pairs(pairs_csv)
    _check_names(pairs_csv, pairs)
    _check_apart(Path(pairs_csv), pairs, output)
    if scheduler is None and threads is None:
        threads = max(1, (os.cpu_count() or 1) // jobs)
    how = (model, settings, device, threads, keep_failed, command)
    tasks = [_task(pair, output / pair.name, *how) for pair in pairs]
    path = output / SUMMARY
    with claimed(output):
        entries = register_tasks(tasks, jobs, scheduler, lambda entries: _write_summary(path, entries))
        summary = Summary(path, entries)
        _write_page(output, f"{len(tasks)} pairs of {pairs_csv}", summary, command)
        return summary


def check_how(model: str | None, settings: Settings, device: str | None) -> tuple[str | None, Settings]:
    """Model and settings for processes that may work elsewhere: with absolute paths, refused before the first pair.

    Args:
        model: as of :func:`register_batch`.
        settings: likewise.
        device: likewise; None for those of a cluster, which are not this machine's.

    Raises:
        InputError: the model, a setting or the device cannot be used.
    """
    check_networks(settings, model)
    check_settings(settings, device)
    if isinstance(settings.init, str) and settings.init not in NAMED_INITS:
        settings = settings._replace(init=str(Path(settings.init).absolute()))
    if model is not None and model not in shipped_models():
        model = str(find_card(model).absolute())
    digests_of_weights(model)  # a damaged card shows before the first pair
    return model, settings


def _write_page(output: Path, title: str, summary: Summary, command: str | None) -> None:
    # Of a pair that failed before it was registered, what lies in its folder is of another run.
    known = (each.seconds is not None and load_result(output / each.name / RESULT) for each in summary.entries)
    lines = [Line(each.name, found or {}, each.error) for each, found in zip(summary.entries, known, strict=True)]
    write_batch_page(output / PAGE, title, lines, {"command": command})


def _task(pair: Pair, folder: Path, *how: Any) -> Task:
    labels = (LabelFiles(pair.moving_labels.absolute(), folder / LABELS),) if pair.moving_labels else ()
    outputs = Outputs(folder / MOVED, folder / TRANSFORM, folder / INVERSE, labels=labels)
    return Task(pair.name, pair.moving.absolute(), pair.fixed.absolute(), folder, outputs, *how)


# --- one pair --------------------------------------------------------------------------------------------------------


def register_pair(task: Task) -> Entry:
    """Register one pair unless it is finished; runs in a process of its own, and never raises.

    Args:
        task: the pair.
    """
    try:
        key = _hash(task)
        result = _finished(task, key)
        entry = _entry(task, "done", _register(task, key)) if result is None else _entry(task, "skipped", result)
        keep_thumbnail(task.folder, task.outputs.moved, task.moving, task.fixed)
        return entry
    except Exception as error:  # whatever it is, the other pairs go on
        return _failure(task.name, error)


def _register(task: Task, key: str) -> dict[str, Any]:
    """Register and write everything, ``result.json`` last; where it fails, that says why, and the pair is not done."""
    outputs = task.outputs
    task.folder.mkdir(parents=True, exist_ok=True)
    # What another input or setting made goes first, so that nothing here is ever of another input than the rest.
    ours = (task.folder / name for name in (RESULT, LABELS, THUMBNAIL))
    for path in (*ours, *(path for _, path in outputs.files())):
        path.unlink(missing_ok=True)
    try:
        how = (task.model, task.settings, task.device, task.threads, task.keep_failed, task.command)
        done = register_files(task.moving, task.fixed, outputs, *how)
        result = {**done.as_dict(), "hash": key}
        _write_result(task, result)
    except Exception as error:
        inputs = {"moving": str(task.moving), "fixed": str(task.fixed), "model": task.model}
        with contextlib.suppress(InputError):
            _write_result(task, {"inputs": inputs, "error": sentence(error)})
        raise
    return result


def _hash(task: Task) -> str:
    """SHA-256 of all that decides the result: the bytes of inputs and weights, the settings, this program."""
    init = task.settings.init
    given = Path(init) if isinstance(init, str) and init not in NAMED_INITS else None
    labels = task.outputs.labels[0].source if task.outputs.labels else None
    files = {"moving": task.moving, "fixed": task.fixed, "moving_labels": labels, "init": given}
    decisive = {
        **{role: digest(path) for role, path in files.items() if path},
        "weights": digests_of_weights(task.model),
        "settings": plain_settings(task.settings),
        "version": metadata.version("crossmorph"),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()


def _finished(task: Task, key: str) -> dict[str, Any] | None:
    """The result of a finished pair, with or without outputs where a check failed."""
    try:
        result = json.loads((task.folder / RESULT).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(result, dict) or result.get("hash") != key:
        return None
    wanted = task.keep_failed or not failed_checks(result)
    there = [path.is_file() for _, path in task.outputs.files()]
    return result if (all(there) if wanted else not any(there)) else None


def failed_checks(result: dict[str, Any]) -> list[str]:
    """Names of the checks that failed."""
    return [check["name"] for check in result["checks"] if check["level"] == "failed"]


def _write_result(task: Task, result: dict[str, Any]) -> None:
    write_whole(task.folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())


def _entry(task: Task, status: Literal["done", "skipped"], result: dict[str, Any]) -> Entry:
    measures, failed = result["measures"], failed_checks(result)
    checks = "; ".join(f"{each['name']}:{each['level']}" for each in result["checks"] if each["level"] != "passed")
    entry = Entry(
        task.name,
        status,
        result["seconds"],
        float(measures["folds_percent"]),
        float(measures["mutual_information_before"]),
        float(measures["mutual_information_final"]),
        checks,
    )
    if not failed:
        return entry
    fate = "the outputs were written all the same" if task.keep_failed else NOT_KEPT
    return entry._replace(status="failed", error=f"checks failed ({', '.join(failed)}); {fate}")


def _failure(name: str, error: BaseException) -> Entry:
    return Entry(name, "failed", error=sentence(error))


# --- all pairs -------------------------------------------------------------------------------------------------------


def _by_processes(tasks: list[Task], jobs: int) -> Generator[Entry, None, None]:
    yield from _entries(on_processes(register_pair, tasks, jobs))


def _by_cluster(tasks: list[Task], address: str) -> Generator[Entry, None, None]:
    yield from _entries(on_cluster(register_pair, tasks, address))


def _entries(outcomes: Generator[Outcome[Task, Entry], None, None]) -> Generator[Entry, None, None]:
    with contextlib.closing(outcomes):
        for task, result in outcomes:
            yield _failure(task.name, result) if isinstance(result, Exception) else result


def register_tasks(
    tasks: list[Task],
    jobs: int,
    scheduler: str | None = None,
    keep: Callable[[list[Entry]], object] = lambda _: None,
) -> list[Entry]:
    """Register pairs on processes or a cluster, showing how far it is.

    Args:
        tasks: the pairs.
        jobs: processes of this machine.
        scheduler: as of :func:`register_batch`.
        keep: is given the entries so far, in the order of the tasks, now and then and at the end, however it ends.
    """
    from crossmorph.system.progress import progress_bar

    known: dict[str, Entry] = {}

    def so_far() -> list[Entry]:
        return [known[task.name] for task in tasks if task.name in known]

    entries = _by_processes(tasks, jobs) if scheduler is None else _by_cluster(tasks, scheduler)
    # Closed, so that no process is at work when the folder is let go of.
    with progress_bar(True) as progress, contextlib.closing(entries):
        bar = progress.add_task("pairs", total=len(tasks))
        failed, kept = 0, time.monotonic()
        try:
            for entry in entries:
                known[entry.name] = entry
                failed += entry.status == "failed"
                progress.update(bar, advance=1, description=f"pairs ({failed} failed)" if failed else "pairs")
                if time.monotonic() - kept > SUMMARY_SECONDS:
                    keep(so_far())
                    kept = time.monotonic()
        finally:
            keep(so_far())
    return so_far()


def _write_summary(path: Path, entries: list[Entry]) -> None:
    with atomic_output(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(Entry._fields)
        for entry in entries:
            rows.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in entry])


def _check_names(pairs_csv: str | Path, pairs: list[Pair]) -> None:
    """Every name has to be that of one folder in the output folder, and of none of our own files there."""
    for pair in pairs:
        name = pair.name
        if not name.isprintable() or name.startswith(".") or set(name) & set("/\\:") or name in (SUMMARY, PAGE):
            raise InputError(
                f"{pairs_csv}: a pair is named {name!r}; expected the name of a folder, without / \\ : or a leading dot"
            )


def _check_apart(pairs_csv: Path, pairs: list[Pair], output: Path) -> None:
    """No input may lie in a folder that is written to, and the list may not be what the summary replaces."""
    if pairs_csv.resolve() == (output / SUMMARY).resolve():
        raise InputError(f"{pairs_csv}: is where the summary goes; expected another output folder")
    targets = {(output / pair.name).resolve() for pair in pairs}
    for pair in pairs:
        for path in (pair.moving, pair.fixed, pair.moving_labels):
            if path and not targets.isdisjoint(path.resolve().parents):
                raise InputError(f"{path}: an input that lies where outputs go; expected another output folder")
