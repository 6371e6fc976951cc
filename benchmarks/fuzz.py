"""Damaged files into every reader: ``python benchmarks/fuzz.py``.

Seeded damage (`mutation.py`) is done to small valid files of every kind that is read. Each case has two permitted ends:
the reader gives something sound, or it raises `InputError` in one line and nothing is written to the terminal. All else
is a finding: another exception, more than 10 s, more than 2 GiB, the death of the process. Cases run in forked
processes, so a crash in a library of C costs one case. Findings are kept, to become cases of `tests/corpus`.

``--geometry N`` registers pairs of images of odd values and geometry; ``--atheris SECONDS`` lets coverage guide the
damage to what is read in pure Python, where `atheris` is installed. Prints a table in Markdown.
"""

import argparse
import importlib
import itertools
import os
import platform
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import hypothesis
import numpy as np
import torch
from mutation import OBLIQUE, VOLUME, Files, damage, seeds
from odd_images import odd_pairs

from crossmorph import Image, read_image
from crossmorph.datasets.brainweb import files as brainweb_files
from crossmorph.datasets.brainweb.files import SiteGrid, find_files, read_fractions, read_intensities, read_labels
from crossmorph.datasets.brats.dataset import read_anatomy
from crossmorph.datasets.brats.files import check_grids, find_cases
from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.images.io import read_series
from crossmorph.networks.checkpoint import Model, load_model, load_tensors
from crossmorph.provenance.record import read_record
from crossmorph.system.environment import processor
from crossmorph.training.config import dump_config, load_config
from crossmorph.transforms.affine_files import read_affine_transform, read_step
from crossmorph.transforms.warp import Warp
from crossmorph.workflows.point_tables import read_points
from crossmorph.workflows.register import as_image, register

SECONDS, MEMORY, LINE = 10.0, 2 << 30, 4096
MEMORY_DISK = "/dev/shm" if os.path.isdir("/dev/shm") else None
BATCH = 200  # cases of one forked process


def _image(path: Path) -> None:
    _sound_image(read_image(path))


def _labels(path: Path) -> None:
    assert read_image(path, labels=True).data.dtype == np.int32


def _series(path: Path) -> None:
    for image in read_series(path):
        _sound_image(image)


def _sound_image(image: Image) -> None:
    assert np.isfinite(image.data).all()
    assert np.isfinite(np.linalg.inv(image.affine)).all()


def _step(path: Path) -> None:
    step = read_step(path, *GRIDS)
    assert np.isfinite(step.displacement if isinstance(step, Warp) else np.linalg.inv(step)).all()


def _affine(path: Path) -> None:
    assert np.isfinite(np.linalg.inv(read_affine_transform(path, *GRIDS))).all()


def _points(path: Path) -> None:
    for dim in (2, 3):
        assert np.isfinite(read_points(path, dim).points).all()


def _pairs(path: Path) -> None:
    inside = path.parent.resolve()
    for pair in read_pairs(path):
        for file in (pair.moving, pair.fixed, pair.moving_labels):
            assert file is None or inside in file.resolve().parents


def _model(path: Path) -> None:
    assert load_model(str(path)).hierarchy is not None


def _checkpoint(path: Path) -> None:
    load_tensors(path / "checkpoint.safetensors")


def _config(path: Path) -> None:
    dump_config(load_config(path))


def _brainweb(path: Path) -> None:
    """Small volumes stand for the site's."""
    grid = SiteGrid(VOLUME, (-2.0, -2.0, -2.0), 1.0)
    with mock.patch.dict(brainweb_files.GRIDS, {"phantom": grid}):
        files = find_files(path)
        volumes = [read_intensities(files[f"{kind}_icbm_normal_1mm_pn3_rf20"], "phantom") for kind in ("t1", "t2")]
        volumes.append(read_labels(files["phantom_1.0mm_normal_crisp"], "phantom", 9))
        volumes.append(read_fractions(files["phantom_1.0mm_normal_gry"], "phantom"))
    for volume in volumes:
        assert volume.data.shape == VOLUME
        assert np.isfinite(volume.data).all()


def _brats(path: Path) -> None:
    _, cases = find_cases(path)
    check_grids(cases)
    for case in cases:
        anatomy = read_anatomy(case)
        for voxels in (anatomy.t1, anatomy.t2):
            assert np.isfinite(voxels).all()


def _record(path: Path) -> None:
    read_record(path)


def _pair(path: Path) -> None:
    arrays = {file.stem: np.load(file, allow_pickle=False) for file in path.glob("*.npy")}
    moving, fixed = (
        as_image((arrays[f"{role}_voxels"], arrays[f"{role}_affine"]), role) for role in ("moving", "fixed")
    )
    result = register(moving, fixed, model=shipped_model())
    for field in (result.moved.data, result.transform.displacement, result.inverse.displacement):
        assert np.isfinite(field).all()
    assert np.isfinite([value for value in result.measures if isinstance(value, float)]).all()


@cache
def shipped_model() -> Model:
    """The default weights for slices."""
    return load_model()


GRIDS = tuple(Image(np.zeros(VOLUME, np.float32), affine) for affine in (OBLIQUE, np.eye(4)))
IMAGE, TRANSFORM = (_image, _labels), (_step, _affine)

# What reads each kind of files, and the name of the one it is told; "" is their folder.
READERS: dict[str, tuple[str, tuple[Callable[[Path], None], ...]]] = {
    ".nii": ("a.nii", (*IMAGE, _series)),
    ".nii.gz": ("a.nii.gz", (*IMAGE, _series)),
    ".mha": ("a.mha", IMAGE),
    ".mhd": ("a.mhd", IMAGE),
    ".nrrd": ("a.nrrd", IMAGE),
    ".nhdr": ("a.nhdr", IMAGE),
    ".png": ("a.png", IMAGE),
    ".tif": ("a.tif", IMAGE),
    ".mnc": ("a.mnc", IMAGE),
    ".mnc.gz": ("a.mnc.gz", IMAGE),
    "dicom": ("", IMAGE),
    "warp .nii.gz": ("a.nii.gz", (_step,)),
    "warp .h5": ("a.h5", TRANSFORM),
    "affine .h5": ("a.h5", TRANSFORM),
    "affine .tfm": ("a.tfm", TRANSFORM),
    "affine .txt": ("a.txt", TRANSFORM),
    "affine .mat": ("a.mat", TRANSFORM),
    "affine .lta": ("a.lta", TRANSFORM),
    "points .csv": ("a.csv", (_points,)),
    "points .fcsv": ("a.fcsv", (_points,)),
    "pairs.csv": ("a.csv", (_pairs,)),
    "config .yaml": ("a.yaml", (_config,)),
    "model": ("", (_model, _checkpoint)),
    "record": ("a.json", (_record,)),
    "brainweb": ("", (_brainweb,)),
    "brats": ("", (_brats,)),
    "pair": ("", (_pair,)),
}


# What is read in pure Python, and of several files the one that `atheris` damages.
GUIDED = {
    "config .yaml": "a.yaml",
    "pairs.csv": "a.csv",
    "points .csv": "a.csv",
    "points .fcsv": "a.fcsv",
    "affine .lta": "a.lta",
    "affine .txt": "a.txt",
    "model": "a.json",
    "record": "a.json",
}


class Case(NamedTuple):
    """Files to read, of a kind; ``name`` tells which they are."""

    name: str
    kind: str
    files: Files


class Outcome(NamedTuple):
    """What became of a case: ``read``, ``refused``, or what was found; mebibytes above the process's own."""

    case: Case
    ending: str
    mebibytes: int


# --- one process -----------------------------------------------------------------------------------------------------


def end_of(case: Case, folder: Path) -> str:
    """Read a case's files in a new folder: ``read``, ``refused``, or what should not have happened, in one line."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    main, readers = READERS[case.kind]
    ending = "refused"
    for reader in readers:
        try:
            reader(folder / main)
            ending = "read"
        except InputError as error:
            if fault := _fault(error):
                return f"{reader.__name__[1:]}: {fault}"
        except Exception as error:  # the finding
            return f"{reader.__name__[1:]}: {type(error).__name__}: {str(error)[:200]!r}"
    return ending


def _fault(error: InputError) -> str:
    text, cause = str(error), error.__cause__
    if "\n" in text or not text.strip():
        return f"a message that is not one line: {text[:200]!r}"
    if len(text) > LINE:
        return f"a message of {len(text)} characters: {text[:200]!r}"
    return f"ran out of memory: {text[:200]!r}" if isinstance(cause, MemoryError) else ""


def _work(cases: list[Case], folder: Path, report: int) -> None:
    """Read cases one after the other, telling ``report`` when each begins and how it ends; never returns."""
    log = os.open(folder / "terminal", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    base = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (base + MEMORY, base + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number, case in enumerate(cases):
        os.write(report, f"begin {number}\n".encode())
        os.ftruncate(log, 0)
        os.lseek(log, 0, os.SEEK_SET)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _memory("VmRSS")
        ending = end_of(case, folder / "case")
        peak = _memory("VmHWM") - before
        sys.stdout.flush()
        sys.stderr.flush()
        if ending in ("read", "refused") and (size := os.lseek(log, 0, os.SEEK_CUR)):
            ending = f"wrote to the terminal: {os.pread(log, min(size, 200), 0)!r}"
        if peak > MEMORY:
            ending = f"took {peak >> 20} MiB"
        os.write(report, f"end {number} {max(peak, 0) >> 20} {' '.join(ending.split())}\n".encode())
    os._exit(0)


def _memory(name: str) -> int:
    """Bytes, by a name of ``/proc/self/status``."""
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) * 1024 for line in stream if line.startswith(name + ":"))


# --- all cases -------------------------------------------------------------------------------------------------------


def run_cases(cases: list[Case], folder: Path) -> Iterator[Outcome]:
    """The outcome of every case, read in forked processes; a new one begins after whatever one died of."""
    while cases:
        done = 0
        for outcome in _batch(cases[:BATCH], folder):
            done += 1
            yield outcome
        cases = cases[done:]


def _batch(cases: list[Case], folder: Path) -> Iterator[Outcome]:
    """Outcomes of one forked process, up to the case that ended it."""
    theirs, ours = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            _work(cases, folder, ours)
        finally:
            os._exit(70)
    os.close(ours)
    current, ended, late = 0, 0, False
    for line in _lines(theirs):
        if line is None:
            late = True
            os.kill(process, signal.SIGKILL)
            break
        word, number, *rest = line.split(" ", 3)
        current = int(number)
        if word == "end":
            ended += 1
            yield Outcome(cases[current], rest[1], int(rest[0]))
    os.close(theirs)
    _, status = os.waitpid(process, 0)
    if late:
        yield Outcome(cases[current], f"took more than {SECONDS:.0f} s", 0)
    elif ended < len(cases):
        killed = os.WIFSIGNALED(status)
        reason = signal.Signals(os.WTERMSIG(status)).name if killed else f"exit code {os.WEXITSTATUS(status)}"
        yield Outcome(cases[current], f"the process died: {reason}", 0)


def _lines(descriptor: int) -> Iterator[str | None]:
    """Lines of a pipe as they come; None after too long a silence."""
    rest = b""
    while select.select([descriptor], [], [], SECONDS)[0]:
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    yield None


def damaged_files(count: int, seed: int, only: str = "") -> Iterator[Case]:
    """So many cases, of every kind in turn; a case depends on the seed and its number alone."""
    with tempfile.TemporaryDirectory(prefix="crossmorph-seeds-") as folder:
        torch.manual_seed(seed)
        valid = {kind: files for kind, files in seeds(Path(folder)).items() if only in kind}
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        kind = list(valid)[number % len(valid)]
        files = valid[kind][rng.integers(len(valid[kind]))]
        yield Case(str(number), kind, damage(rng, kind, files, valid[kind]))


def keep(outcome: Outcome, folder: Path) -> None:
    """Write the files of a finding, to be looked at and to become part of the corpus."""
    target = folder / outcome.case.kind.replace(" ", "") / outcome.case.name
    target.mkdir(parents=True, exist_ok=True)
    for name, content in outcome.case.files.items():
        (target / name).write_bytes(content)
    (target / "FOUND").write_text(outcome.ending + "\n")


def table(outcomes: list[Outcome]) -> str:
    """Counts by kind, in Markdown."""
    rows = ["| files | cases | read | refused | findings | most memory (MiB) |", "|---|---|---|---|---|---|"]
    kinds = list(dict.fromkeys(outcome.case.kind for outcome in outcomes))
    for kind in [*kinds, ""]:
        mine = [outcome for outcome in outcomes if kind in ("", outcome.case.kind)]
        endings = Counter(outcome.ending for outcome in mine)
        found = len(mine) - endings["read"] - endings["refused"]
        most = max(outcome.mebibytes for outcome in mine)
        cells = (kind or "**all**", len(mine), endings["read"], endings["refused"], found, most)
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def registered_pairs(count: int, seed: int, folder: Path) -> list[Outcome]:
    """Register so many odd pairs, drawn by Hypothesis, each in a process of its own."""
    outcomes: list[Outcome] = []
    if not count:
        return outcomes

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=count, deadline=None, database=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(odd_pairs())
    def register_one(files: Files) -> None:
        case = Case(str(len(outcomes)), "pair", files)
        outcomes.extend(run_cases([case], folder))

    # Once, before the processes part: weights, and what Adam would import.
    shipped_model()
    importlib.import_module("torch._dynamo")
    register_one()
    return outcomes


def guided(seconds: int, seed: int, findings: Path) -> bool:
    """So many seconds of `atheris` for each reader in pure Python, printed as a table; whether something was found."""
    bad = False
    print("\n| files | executions guided by coverage | findings |\n|---|---|---|")
    for kind in GUIDED:
        findings.mkdir(parents=True, exist_ok=True)
        options = [f"-max_total_time={seconds}", f"-seed={seed + 1}", f"-timeout={SECONDS:.0f}", "-max_len=4096"]
        script = Path(__file__).with_name("fuzz_coverage.py")
        words = [sys.executable, str(script), kind, str(findings), *options, "-rss_limit_mb=4096"]
        done = subprocess.run([*words, "-print_final_stats=1"], capture_output=True, text=True)
        executions = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        found = re.findall(r"Test unit written to (\S+)", done.stderr)
        bad |= bool(found) or executions is None
        print(
            f"| {kind} | {executions[1] if executions else 'none: ' + done.stderr[-300:]} | {len(found)} |", flush=True
        )
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="KIND", help="kinds whose name has this in it")
    parser.add_argument("--geometry", type=int, default=300, metavar="N", help="odd pairs to register")
    parser.add_argument("--atheris", type=int, default=0, metavar="SECONDS", help="for each reader in pure Python")
    parser.add_argument("--findings", type=Path, default=Path("findings"), metavar="FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    outcomes = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crossmorph-fuzz-", dir=MEMORY_DISK) as folder:
        files = run_cases(list(damaged_files(arguments.cases, arguments.seed, arguments.only)), Path(folder))
        for outcome in itertools.chain(files, registered_pairs(arguments.geometry, arguments.seed, Path(folder))):
            outcomes.append(outcome)
            if outcome.ending not in ("read", "refused"):
                keep(outcome, arguments.findings)
                print(f"{outcome.case.kind} {outcome.case.name}: {outcome.ending}", file=sys.stderr, flush=True)
    print(table(outcomes))
    seconds = time.monotonic() - began
    machine = f"{processor()}, Python {platform.python_version()}, torch {torch.__version__}"
    print(f"\n{date.today()}, seed {arguments.seed}, {seconds:.0f} s on {machine}")
    bad = any(outcome.ending not in ("read", "refused") for outcome in outcomes)
    if arguments.atheris:
        bad |= guided(arguments.atheris, arguments.seed, arguments.findings / "guided")
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
