"""Killed, without room, without memory, not alone: what is there is whole, and the next run makes it right."""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from project import ROOT

from crossmorph import Image, write_image
from crossmorph.transforms.affine_files import write_affine_transform
from crossmorph.transforms.warp import Warp
from crossmorph.transforms.warp_files import write_transform

sys.path.insert(0, str(ROOT / "benchmarks"))
import conditions
import faults
import processes

OUTPUTS = ("-o", "moved.nii.gz", "-t", "transform.h5", "--inverse", "inverse.nii.gz", "--threads", "1", "--keep-failed")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> faults.Work:
    """A registration of two small images."""
    faults.warm_up()
    data = tmp_path_factory.mktemp("data")
    places = np.indices((40, 36)) / 20 - 1
    for name, shift in (("moving", 0.1), ("fixed", 0.0)):
        blob = np.exp(-4 * ((places[0] - shift) ** 2 + places[1] ** 2)) + 0.3 * (places[0] > shift)
        write_image(data / f"{name}.nii.gz", Image(blob.astype(np.float32), np.diag([3.0, 3.0, 1.0])))
    words = ("register", str(data / "moving.nii.gz"), str(data / "fixed.nii.gz"), *OUTPUTS)
    return faults.Work("register", words, (), data)


@pytest.fixture(scope="module")
def plain(work: faults.Work, tmp_path_factory: pytest.TempPathFactory) -> faults.Undisturbed:
    """What the registration leaves where nothing disturbs it."""
    done = faults.undisturbed(work, tmp_path_factory.mktemp("plain") / "case")
    assert {"moved.nii.gz", "transform.h5", "inverse.nii.gz"} <= done.expected.keys()
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "case"


def last_calls(plain: faults.Undisturbed) -> Iterator[tuple[int, bool]]:
    """The renames at the end are where files appear: some of the last calls."""
    yield from ((plain.calls - number, after) for number, after in ((0, False), (2, True), (4, False)))


def test_killed_between_renames(work: faults.Work, plain: faults.Undisturbed, folder: Path) -> None:
    for number, after in last_calls(plain):
        faults.fresh(folder)
        ended = processes.run(
            work.words, folder, lambda number=number, after=after: processes.die_at_call(number, after)
        )
        assert ended.code == -signal.SIGKILL
        assert not faults.check(folder, plain.expected, whole=False)
        assert processes.run(work.words, folder).code == 0
        assert not faults.check(folder, plain.expected, whole=True)


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_killed_in_a_write(work: faults.Work, plain: faults.Undisturbed, folder: Path, share: float) -> None:
    faults.fresh(folder)
    size = 512 + int(share * max(plain.sizes))  # beyond the copy of a header that is made while reading
    ended = processes.run(work.words, folder, lambda: processes.die_at_byte(size))
    assert ended.code == -signal.SIGXFSZ
    assert not faults.finals(folder)
    assert faults.hidden(folder) > 0
    assert processes.run(work.words, folder).code == 0
    assert not faults.check(folder, plain.expected, whole=True)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("works")
    faults.warm_up()
    for each in faults.works(data):
        for one in faults.kills(each, 6, 200, 1, data.parent / "case"):
            assert not one.faults, (each.name, one)


def test_no_room_no_folder(work: faults.Work, folder: Path) -> None:
    for condition in (conditions.read_only, conditions.full_disk):
        faults.fresh(folder)
        before = faults.digests(work.inputs)
        tries = condition(work, folder)
        assert not any(tries), (condition.__name__, tries)
        assert faults.digests(work.inputs) == before


def test_two_writers(work: faults.Work, folder: Path) -> None:
    assert conditions.two_writers(work, folder) == [[]]


def test_damage_is_seen(work: faults.Work, plain: faults.Undisturbed, folder: Path) -> None:
    """The checks fail where they should: half a file, another file, a file too many, one too few."""
    faults.fresh(folder)
    assert processes.run(work.words, folder).code == 0
    assert not faults.check(folder, plain.expected, whole=True)
    (folder / "moved.nii.gz").write_bytes((folder / "moved.nii.gz").read_bytes()[:100])
    (folder / "more.nii").touch()
    (folder / "transform.h5").unlink()
    found = faults.check(folder, plain.expected, whole=True)
    assert len(found) == 3
    assert ["moved" in found[1], "more" in found[0], "transform.h5 is missing" in found[2]] == [True] * 3


def test_transforms_do_not_depend_on_the_time(tmp_path: Path) -> None:
    """ITK's own writer of HDF5 puts the time into every object."""
    warp = Warp(np.random.default_rng(0).normal(size=(2, 7, 6)), np.diag([2.0, 2.0, 1.0]))
    seen = set()
    for name in ("a", "b"):
        write_transform(tmp_path / f"{name}.h5", warp)
        write_affine_transform(tmp_path / f"{name}-affine.h5", np.diag([2.0, 1.0, 1.0]))
        files = (tmp_path / f"{name}.h5", tmp_path / f"{name}-affine.h5")
        seen.add(tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files))
        time.sleep(1.1)
    assert len(seen) == 1


@pytest.mark.slow
def test_threads_and_processes_give_the_same_bits(work: faults.Work, folder: Path) -> None:
    words = (*work.words[: work.words.index("--threads")], "--ants-prefix", "ants")
    tries = conditions.threads(faults.Work("register", words, (), work.inputs), folder)
    assert len(tries) == 2 * len(conditions.THREADS)
    assert not any(tries), tries


@pytest.fixture(autouse=True)
def _here() -> Iterator[None]:
    """Forked processes change their folder; this one must not."""
    before = os.getcwd()
    yield
    assert os.getcwd() == before
