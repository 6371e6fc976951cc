"""Many pairs: nothing lost, nothing done twice, whatever fails or is killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
from examples import check, measures
from html_scene import Parsed
from small_model import draw, save_weights

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.registration.settings import Settings
from crossmorph.system import processes
from crossmorph.workflows import batch
from crossmorph.workflows.batch import Entry, Summary, Task, register_batch
from crossmorph.workflows.outputs import Outputs
from crossmorph.workflows.register_files import Done, register_files

QUICK = Settings(init="none")
OUTPUTS = {"moved.nii.gz", "transform.h5", "inverse.h5", "transform.json", "inverse.json", "result.json"}
FILES = OUTPUTS | {"thumbnail.webp"}
register_pair = batch.register_pair


class Given(NamedTuple):
    """A list of pairs `a`, `b`, `c`, and a model."""

    pairs: Path
    model: Path
    output: Path

    def run(self, **options: Any) -> Summary:
        return register_batch(self.pairs, self.output, str(self.model), **{"settings": QUICK, **options})

    def statuses(self, **options: Any) -> dict[str, str]:
        return {entry.name: entry.status for entry in self.run(**options).entries}

    def image(self, name: str) -> Path:
        return self.pairs.parent / f"{name}.nii.gz"


def write_list(path: Path, *rows: str) -> None:
    path.write_text("\n".join(["name,moving,fixed", *rows, ""]))


@pytest.fixture
def given(tmp_path: Path) -> Given:
    data = tmp_path / "data"
    data.mkdir()
    save_weights(tmp_path / "model", 0)
    for seed, name in enumerate("abcf"):
        draw(data / f"{name}.nii.gz", seed)
    write_list(data / "pairs.csv", *(f"{name},{name}.nii.gz,f.nii.gz" for name in "abc"))
    return Given(data / "pairs.csv", tmp_path / "model", tmp_path / "out")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs in this process, by something quicker than a registration."""

    def in_this_process(tasks: list[Task], jobs: int) -> Generator[Entry, None, None]:
        yield from (batch.register_pair(task) for task in tasks)

    monkeypatch.setattr(batch, "_by_processes", in_this_process)
    monkeypatch.setattr(batch, "register_files", quick)


def quick(moving: Path, fixed: Path, outputs: Outputs, model: str | None, *_: object) -> Done:
    """Read the inputs and write the outputs."""
    images = [read_image(path) for path in (moving, fixed)]
    for kind, path in outputs.files():
        path.write_bytes(kind.encode() + images[0].data.tobytes())
    checks = (check("mutual information", "passed"), check("folding", "warning"))
    return Done(moving, fixed, model or "shipped", outputs, 1.5, measures(), checks, None, None)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Counter[str]]:
    """Count what every process did, by name and status."""
    path = tmp_path / "log.txt"
    path.touch()
    monkeypatch.setenv("COHORT_LOG", str(path))
    monkeypatch.setattr(batch, "register_pair", logged)
    return lambda: Counter(path.read_text().splitlines())


def logged(task: Task) -> Entry:
    """Register, slowly, and put down what was done."""
    note(f"{task.name} begins {os.getpid()}")
    time.sleep(float(os.environ.get("COHORT_SLEEP", "0")))
    entry = register_pair(task)
    note(f"{task.name} {entry.status}")
    return entry


def deadly(task: Task) -> Entry:
    """Kill the process at `a` always, at `b` once."""
    path = Path(os.environ["COHORT_LOG"])
    if task.name == "a" or (task.name == "b" and "b dies" not in path.read_text()):
        note(f"{task.name} dies")
        os.kill(os.getpid(), signal.SIGKILL)
    return logged(task)


def note(line: str) -> None:
    with Path(os.environ["COHORT_LOG"]).open("a") as stream:
        stream.write(line + "\n")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- one run ---------------------------------------------------------------------------------------------------------


def test_processes_do_what_register_does(given: Given, tmp_path: Path) -> None:
    summary = given.run(jobs=2)
    assert (summary.done, summary.skipped, summary.failed) == (3, 0, 0)
    assert names(given.output) == {"a", "b", "c", "summary.csv", "index.html", ".lock"}
    alone = register_files(given.image("b"), given.image("f"), Outputs(tmp_path / "b.nii"), str(given.model), QUICK)
    moved = read_image(given.output / "b" / "moved.nii.gz")
    np.testing.assert_allclose(moved.data, read_image(tmp_path / "b.nii").data, atol=1e-5)
    for name in "abc":
        assert names(given.output / name) == FILES
    result = json.loads((given.output / "b" / "result.json").read_text())
    expected = alone.measures.as_dict()
    assert result["measures"].pop("unit") == expected.pop("unit") == "mm"
    assert result["measures"] == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert result["inputs"]["moving"] == str(given.image("b"))
    row = rows(summary.path)[1]
    assert (row["name"], row["status"], row["error"]) == ("b", "done", "")
    assert float(row["mutual_information_final"]) == pytest.approx(alone.measures.mutual_information_final, rel=1e-3)
    checks = [f"{each.name}:{each.level}" for each in alone.checks if each.level != "passed"]
    assert row["checks"].split("; ") == checks
    assert summary.checks_failed == sum(":failed" in entry.checks for entry in summary.entries)


def test_what_is_finished_is_not_done_again(given: Given, here: None, log: Callable[[], Counter[str]]) -> None:
    first = given.run()
    before = {path: path.stat().st_mtime_ns for path in given.output.rglob("*.h5")}
    second = given.run()
    assert [entry._replace(status="skipped") for entry in first.entries] == second.entries
    assert {path: path.stat().st_mtime_ns for path in given.output.rglob("*.h5")} == before
    assert {line: count for line, count in log().items() if "begins" not in line} == {
        f"{name} {status}": 1 for name in "abc" for status in ("done", "skipped")
    }


def leave(given: Given) -> None:
    pass


def delete_inverse(given: Given) -> None:
    (given.output / "b" / "inverse.h5").unlink()


def tear_result(given: Given) -> None:
    (given.output / "b" / "result.json").write_text('{"hash": "')


def forget_result(given: Given) -> None:
    (given.output / "b" / "result.json").unlink()


CHANGES: dict[str, tuple[Callable[[Given], object], dict[str, Any], str]] = {
    "moving image": (lambda given: draw(given.image("b"), 9), {}, "b"),
    "fixed image": (lambda given: draw(given.image("f"), 9), {}, "abc"),
    "weights": (lambda given: save_weights(given.model, 1), {}, "abc"),
    "settings": (leave, {"settings": Settings(init="centers")}, "abc"),
    "lost output": (delete_inverse, {}, "b"),
    "lost result": (forget_result, {}, "b"),
    "torn result": (tear_result, {}, "b"),
    "touched": (lambda given: os.utime(given.image("b")), {}, ""),
    "threads": (leave, {"threads": 1}, ""),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_is_done_again_and_only_that(given: Given, here: None, name: str) -> None:
    change, options, redone = CHANGES[name]
    given.run()
    change(given)
    statuses = given.statuses(**options)
    assert {pair for pair, status in statuses.items() if status == "done"} == set(redone)
    assert {pair for pair, status in statuses.items() if status == "skipped"} == set("abc") - set(redone)
    assert set(given.statuses(**options).values()) == {"skipped"}


def test_another_initial_affine_is_another_input(given: Given, here: None, tmp_path: Path) -> None:
    for shift, status in ((1.0, "done"), (1.0, "skipped"), (2.0, "done")):
        sitk.WriteTransform(sitk.TranslationTransform(2, (shift, 0.0)), str(tmp_path / "a.tfm"))
        assert set(given.statuses(settings=Settings(init=str(tmp_path / "a.tfm"))).values()) == {status}
    for shift, status in ((1.0, "done"), (1.0, "skipped"), (1 + 1e-9, "done")):
        assert set(given.statuses(settings=Settings(init=np.diag([shift, 1, 1]))).values()) == {status}


def test_another_calibration_checks_again(
    given: Given, here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "calibration"
    monkeypatch.setattr("crossmorph.workflows.model_card.calibration_path", lambda _: path)
    for content, status in ((None, "done"), (b"one", "done"), (b"one", "skipped"), (b"two", "done")):
        if content:
            path.write_bytes(content)
        assert set(given.statuses().values()) == {status}


def test_the_shipped_weights_need_no_name(given: Given, here: None) -> None:
    for status in ("done", "skipped"):
        summary = register_batch(given.pairs, given.output, settings=QUICK)
        assert {entry.status for entry in summary.entries} == {status}


def test_voxels_beside_a_header_count(given: Given, here: None) -> None:
    def write(seed: int) -> None:
        data = np.random.default_rng(seed).random((18, 16)).astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(data), str(given.pairs.parent / "v.mhd"))

    write(0)
    write_list(given.pairs, "v,v.mhd,f.nii.gz")
    assert given.statuses() == {"v": "done"}
    assert given.statuses() == {"v": "skipped"}
    write(1)
    assert given.statuses() == {"v": "done"}


def test_the_summary_says_what_is_known(given: Given, here: None) -> None:
    given.image("b").write_bytes(b"torn")
    first, second, _ = rows(given.run().path)
    numbers = {"seconds": "1.5", "folds_percent": "0.25", "mutual_information_before": "0.5"}
    numbers["mutual_information_final"] = "0.75"
    assert first == {"name": "a", "status": "done", **numbers, "checks": "folding:warning", "error": ""}
    error = second.pop("error")
    assert second == {"name": "b", "status": "failed", **dict.fromkeys(numbers, ""), "checks": ""}
    assert str(given.image("b")) in error


def test_the_page_is_made_anew_by_a_run_that_goes_on(given: Given, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows what the summary says, whether a pair was registered by this run or before."""
    monkeypatch.setattr(batch, "register_files", register_files)
    given.image("b").write_bytes(b"torn")
    shown = Parsed(given.run().page.read_text("utf-8"))
    pictures = [attributes["alt"] for tag, attributes in shown.tags if tag == "img"]
    assert sorted(str(alt).split()[-1] for alt in pictures) == ["a", "c"]
    assert "Not registered." in shown.text
    assert str(given.image("b")) in shown.text
    draw(given.image("b"), 1)
    (given.output / "c" / "thumbnail.webp").unlink()  # killed before it was written
    summary = given.run()
    assert [entry.status for entry in summary.entries] == ["skipped", "done", "skipped"]
    shown = Parsed(summary.page.read_text("utf-8"))
    assert sum(tag == "img" for tag, _ in shown.tags) == 3
    assert "Not registered." not in shown.text
    # What lies in the folder of a pair that can no longer be read is not shown as its result.
    given.image("c").write_bytes(b"torn")
    shown = Parsed(given.run().page.read_text("utf-8"))
    assert sum(tag == "img" for tag, _ in shown.tags) == 2


def test_labels_are_moved_too(given: Given, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((16, 18), np.uint8)
    labels[4:9, 5:12] = 2
    write_image(given.image("labels"), Image(labels, np.diag([1.5, 1.5, 1.0])))
    given.pairs.write_text("moving,fixed,moving_labels\na.nii.gz,f.nii.gz,labels.nii.gz\n")
    monkeypatch.setattr(batch, "register_files", register_files)
    assert given.statuses() == {"a-1": "done"}
    assert names(given.output / "a-1") == FILES | {"moved_labels.nii.gz"}
    assert set(np.unique(read_image(given.output / "a-1" / "moved_labels.nii.gz", labels=True).data)) == {0, 2}
    given.pairs.write_text("moving,fixed\na.nii.gz,f.nii.gz\n")
    assert given.statuses() == {"a-1": "done"}
    assert names(given.output / "a-1") == FILES


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_failing_pair_is_told_and_the_others_go_on(given: Given, here: None) -> None:
    good = given.image("b").read_bytes()
    given.run()
    given.image("b").write_bytes(good[:100])
    summary = given.run()
    assert (summary.done, summary.skipped, summary.failed) == (0, 2, 1)
    assert [row["status"] for row in rows(summary.path)] == ["skipped", "failed", "skipped"]
    assert "b.nii.gz" in rows(summary.path)[1]["error"]
    assert names(given.output / "b") == {"result.json"}  # nothing of the image that was there before
    assert "b.nii.gz" in json.loads((given.output / "b" / "result.json").read_text())["error"]
    given.image("b").write_bytes(good)
    assert given.statuses() == {"a": "skipped", "b": "done", "c": "skipped"}


def poor(*words: Any) -> Done:
    """As :func:`quick`, but `b` does not pass its checks, and writes its outputs only where they are to be kept."""
    moving, _, outputs, *_, keep_failed, _ = words
    if moving.name != "b.nii.gz":
        return quick(*words)
    done = quick(*words) if keep_failed else quick(*words[:2], Outputs(None), *words[3:])
    return done._replace(outputs=outputs, checks=(check("mutual information"),), kept=keep_failed)


def test_a_pair_that_fails_its_checks_is_failed_and_not_done_again(
    given: Given, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "register_files", poor)
    fate = "checks failed (mutual information); "
    for statuses in (["done", "failed", "done"], ["skipped", "failed", "skipped"]):
        summary = given.run()
        assert [entry.status for entry in summary.entries] == statuses
        assert (summary.failed, summary.checks_failed) == (1, 1)
        assert names(given.output / "b") == {"result.json", "thumbnail.webp"}
        row = rows(summary.path)[1]
        assert (row["checks"], row["mutual_information_final"]) == ("mutual information:failed", "0.75")
        assert row["error"] == f"{fate}nothing was written; --keep-failed would have kept the outputs"
        monkeypatch.setattr(batch, "register_files", lambda *_: pytest.fail("done again"))
    monkeypatch.setattr(batch, "register_files", poor)
    for _ in range(2):
        summary = given.run(keep_failed=True)
        assert [entry.status for entry in summary.entries] == ["skipped", "failed", "skipped"]
        assert names(given.output / "b") == OUTPUTS  # of what is no image, there is no picture
        assert rows(summary.path)[1]["error"] == f"{fate}the outputs were written all the same"
        monkeypatch.setattr(batch, "register_files", lambda *_: pytest.fail("done again"))
    monkeypatch.setattr(batch, "register_files", poor)
    given.run()
    assert names(given.output / "b") == {"result.json", "thumbnail.webp"}


def test_records_say_which_command_it_was(given: Given, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "register_files", register_files)
    given.run(command="what I typed", threads=1)
    record = json.loads((given.output / "a" / "transform.json").read_text())
    assert record["command"] == "what I typed"
    assert record["inputs"][0]["absolute"] == str(given.image("a"))


def test_an_error_of_ours_is_told_by_its_type(given: Given, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(moving: Path, *_: object) -> None:
        raise ZeroDivisionError("in\ntwo lines")

    monkeypatch.setattr(batch, "register_files", broken)
    assert {entry.error for entry in given.run().entries} == {"ZeroDivisionError: in two lines"}


def test_an_interrupted_run_tells_what_it_did(given: Given, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(task: Task) -> Entry:
        if task.name == "c":
            raise KeyboardInterrupt
        return register_pair(task)

    monkeypatch.setattr(batch, "register_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        given.run()
    assert [row["name"] for row in rows(given.output / "summary.csv")] == ["a", "b"]
    monkeypatch.setattr(batch, "register_pair", register_pair)
    assert given.statuses() == {"a": "skipped", "b": "skipped", "c": "done"}


class Pool:
    """Processes that work when waited for; the one that gets a pair in `deaths` dies, that many times."""

    deaths: ClassVar[Counter[str]] = Counter()
    current: ClassVar["Pool"]

    def __init__(self, jobs: int) -> None:
        self.running: list[tuple[Future[Entry], Callable[[Task], Entry], Task]] = []
        self.jobs, self.broken = jobs, False
        Pool.current = self

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        assert not self.running

    def submit(self, function: Callable[[Task], Entry], task: Task) -> "Future[Entry]":
        if self.broken:
            raise BrokenProcessPool
        future: Future[Entry] = Future()
        self.running.append((future, function, task))
        assert len(self.running) <= self.jobs
        return future

    def work(self) -> None:
        """One ends well, unless one dies: then the work of all is lost."""
        dead = [task.name for _, _, task in self.running if Pool.deaths[task.name]]
        if not dead:
            future, function, task = self.running.pop()
            future.set_result(function(task))
            return
        Pool.deaths[dead[0]] -= 1
        self.broken = True
        for future, _, _ in self.running:
            future.set_exception(BrokenProcessPool())
        self.running = []


def wait_for_pool(futures: dict[Future[Entry], Task], return_when: str) -> Any:
    Pool.current.work()
    return wait(futures, 0, return_when)


@pytest.mark.parametrize("jobs", [1, 2, 3])
@pytest.mark.parametrize(
    ("deaths", "failed"), [({"a": 1}, ""), ({"b": 2}, "b"), ({"c": 1}, ""), ({"a": 2, "c": 2}, "ac")]
)
def test_the_process_of_a_pair_may_die_once(
    given: Given, monkeypatch: pytest.MonkeyPatch, jobs: int, deaths: dict[str, int], failed: str
) -> None:
    done: Counter[str] = Counter()

    def work(task: Task) -> Entry:
        done[task.name] += 1
        return Entry(task.name, "done")

    monkeypatch.setattr(processes, "workers", Pool)
    monkeypatch.setattr(processes, "wait", wait_for_pool)
    monkeypatch.setattr(batch, "register_pair", work)
    monkeypatch.setattr(Pool, "deaths", Counter(deaths))
    entries = given.run(jobs=jobs).entries
    assert {entry.name for entry in entries if entry.status == "failed"} == set(failed)
    assert done == Counter(set("abc") - set(failed))
    assert all(entry.error == processes.DIED for entry in entries if entry.status == "failed")


@pytest.mark.slow
def test_killed_processes(given: Given, log: Callable[[], Counter[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "register_pair", deadly)
    assert given.statuses(jobs=1) == {"a": "failed", "b": "done", "c": "done"}
    lines = log()
    assert (lines["b done"], lines["c done"], lines["a dies"], lines["b dies"]) == (1, 1, 2, 1)


# --- before the work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "/tmp/x", "x/y", "x\\y", "C:x", ".hidden", "summary.csv", "index.html", "x\ty"]
)
def test_names_that_are_no_folder_are_refused(given: Given, tmp_path: Path, name: str) -> None:
    write_list(given.pairs, f'"{name}",a.nii.gz,f.nii.gz')
    before = names(tmp_path)
    with pytest.raises(InputError, match="expected the name of a folder"):
        given.run()
    assert names(tmp_path) == before


def test_one_name_for_two_pairs_is_refused(given: Given) -> None:
    write_list(given.pairs, "a,a.nii.gz,f.nii.gz", "a,b.nii.gz,f.nii.gz")
    with pytest.raises(InputError, match="both named 'a'"):
        given.run()


def test_inputs_among_the_outputs_are_refused(given: Given) -> None:
    inside = given.pairs.parent / "b"
    inside.mkdir()
    (inside / "moved.nii.gz").write_bytes(given.image("b").read_bytes())
    write_list(given.pairs, "a,b/moved.nii.gz,f.nii.gz", "b,b.nii.gz,f.nii.gz")
    with pytest.raises(InputError, match=r"b/moved\.nii\.gz: an input that lies where outputs go"):
        given._replace(output=given.pairs.parent).run()
    assert (inside / "moved.nii.gz").read_bytes() == given.image("b").read_bytes()


def test_the_list_is_not_replaced_by_the_summary(given: Given) -> None:
    renamed = given.pairs.rename(given.pairs.parent / "summary.csv")
    with pytest.raises(InputError, match="is where the summary goes"):
        given._replace(pairs=renamed, output=renamed.parent).run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "received 0 jobs"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "--scheduler tcp"),
        ({"settings": Settings(refine="yes")}, "refine 'yes': expected"),
        ({"settings": Settings(init="nowhere.mat")}, "--init nowhere.mat: no such file"),
        ({"device": "gpu"}, "device gpu: not available here"),
    ],
)
def test_what_cannot_be_used_is_refused(
    given: Given, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(processes, "CONNECT_SECONDS", 0.2)
    if "scheduler" in options:
        pytest.importorskip("distributed")
    with pytest.raises(InputError, match=message):
        given.run(**options)


def test_a_missing_model_shows_before_anything_is_made(given: Given) -> None:
    with pytest.raises(InputError, match="no such model"):
        given._replace(model=given.model / "absent").run()
    assert not given.output.exists()


def test_without_dask_is_said(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match="pip install distributed"):
        given.run(scheduler="tcp://127.0.0.1:8786")


# --- two runs, and clusters ------------------------------------------------------------------------------------------

HOLD = """
import fcntl, sys, time
stream = open(sys.argv[1], "a+")
fcntl.flock(stream, fcntl.LOCK_EX)
stream.write("process 12345 on node")
stream.flush()
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_belongs_to_one_run_until_that_ends_however_it_ends(given: Given, here: None) -> None:
    given.output.mkdir()
    words = [sys.executable, "-c", HOLD, str(given.output / ".lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="process 12345 on node is writing into it"):
            given.run()
        assert names(given.output) == {".lock"}
        holder.kill()
    assert set(given.statuses().values()) == {"done"}
    assert (given.output / ".lock").read_text() == ""


def test_a_cluster_does_what_processes_do(given: Given, log: Callable[[], Counter[str]]) -> None:
    distributed = pytest.importorskip("distributed")
    given.image("b").write_bytes(b"torn")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        assert given.statuses(scheduler=cluster.scheduler_address) == {"a": "done", "b": "failed", "c": "done"}
        assert given.statuses(scheduler=cluster.scheduler_address) == {"a": "skipped", "b": "failed", "c": "skipped"}
    assert names(given.output / "a") == FILES
    assert log()["a done"] == log()["a skipped"] == 1


@pytest.mark.slow
def test_a_worker_of_two_is_killed_midway(
    given: Given, log: Callable[[], Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost and nothing done twice: what the dead worker had finished is skipped, what it was at is done."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("COHORT_SLEEP", "0.3")
    pairs = [f"p{k:02d}" for k in range(12)]
    write_list(given.pairs, *(f"{name},{'abc'[k % 3]}.nii.gz,f.nii.gz" for k, name in enumerate(pairs)))
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        workers = client.run(os.getpid)
        killer = subprocess.Popen([sys.executable, "-c", KILL, os.environ["COHORT_LOG"], *map(str, workers.values())])
        summary = given.run(scheduler=cluster.scheduler_address, threads=1)
        assert killer.wait() == 0
    assert (summary.done + summary.skipped, summary.failed) == (12, 0)
    # Who dies in the middle of a write may leave a hidden file.
    found = [{file for file in names(given.output / name) if not file.startswith(".")} for name in pairs]
    assert found == [FILES] * len(pairs)
    lines = log()
    assert all(lines[f"{name} done"] == 1 for name in pairs)
    begun = Counter(line.split()[-1] for line in lines if "begins" in line)
    assert len(begun) >= 2
    assert given.statuses(threads=1, jobs=1) == dict.fromkeys(pairs, "skipped")


KILL = """
import os, pathlib, signal, sys, time
log, *workers = sys.argv[1:]
while True:
    lines = pathlib.Path(log).read_text().splitlines()
    last = [line for line in lines if line.endswith(f"begins {workers[0]}")]
    ended = [line for line in lines if line.endswith("done")]
    if len(ended) >= 3 and last and last[-1].split()[0] + " done" not in ended:
        os.kill(int(workers[0]), signal.SIGKILL)
        break
    time.sleep(0.01)
"""
