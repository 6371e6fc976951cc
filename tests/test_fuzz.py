"""Damaged and malicious files: read or refused in one line, and never run; found ones are kept in ``corpus``."""

import ast
import contextlib
import faulthandler
import os
import pickle
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from project import ROOT

from crossmorph import read_image
from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import load_model, load_tensors
from crossmorph.training.config import load_config
from crossmorph.transforms.affine_files import read_affine_transform, read_step
from crossmorph.workflows import batch
from crossmorph.workflows.batch import Entry, Task, register_batch
from crossmorph.workflows.point_tables import read_points
from crossmorph.workflows.register import register

sys.path.insert(0, str(ROOT / "benchmarks"))
import fuzz
import mutation
from odd_images import odd_pairs

CORPUS = ROOT / "tests" / "corpus"
FOLDERS = {kind.replace(" ", "_").lstrip("."): kind for kind in fuzz.READERS}


def corpus() -> list[fuzz.Case]:
    """Files that once did what no file should do."""
    cases = []
    for folder in sorted(CORPUS.glob("*/*")):
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        cases.append(fuzz.Case(folder.name, FOLDERS[folder.parent.name], files))
    return cases


def assert_sound(outcomes: list[fuzz.Outcome]) -> None:
    found = [(one.case.kind, one.case.name, one.ending) for one in outcomes if one.ending not in ("read", "refused")]
    assert not found


def test_what_was_found_is_refused(tmp_path: Path) -> None:
    cases = corpus()
    assert len(cases) > 20
    fuzz.shipped_model()
    outcomes = list(fuzz.run_cases(cases, tmp_path))
    assert len(outcomes) == len(cases)
    assert_sound(outcomes)


def test_whole_files_are_read(tmp_path: Path) -> None:
    """The files that are damaged are ones that can be read; only two transforms are of kinds that are not used."""
    (tmp_path / "made").mkdir()
    made = mutation.seeds(tmp_path / "made")
    assert set(made) == set(fuzz.READERS) - {"pair"}
    cases = [fuzz.Case(f"{n}", kind, files) for kind, several in made.items() for n, files in enumerate(several)]
    refused = {(one.case.kind, one.case.name) for one in fuzz.run_cases(cases, tmp_path) if one.ending != "read"}
    assert refused == {("affine .tfm", "3"), ("affine .tfm", "4")}


def test_a_few_damaged_files_of_every_kind(tmp_path: Path) -> None:
    outcomes = list(fuzz.run_cases(list(fuzz.damaged_files(230, seed=1)), tmp_path))
    assert len({one.case.kind for one in outcomes}) == len(fuzz.READERS) - 1
    assert {one.ending for one in outcomes} == {"read", "refused"}


@pytest.mark.slow
def test_many_damaged_files(tmp_path: Path) -> None:
    assert_sound(list(fuzz.run_cases(list(fuzz.damaged_files(5000, seed=2)), tmp_path)))


def test_every_misdeed_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner sees exceptions, silence, crashes, output and memory, and goes on after each."""

    def misbehave(path: Path) -> None:
        name = (path / "name").read_text()
        if name == "raises":
            raise KeyError(name)
        if name == "hangs":
            while True:
                pass
        if name == "dies":
            faulthandler.disable()  # pytest's
            os.kill(os.getpid(), 11)
        if name == "talks":
            os.write(2, b"warning")
        if name == "two lines":
            raise InputError("one\ntwo")
        if name == "takes":
            bytearray(3 << 30)

    monkeypatch.setitem(fuzz.READERS, "test", ("", (misbehave,)))
    monkeypatch.setattr(fuzz, "SECONDS", 1.0)
    names = ["raises", "hangs", "fine", "dies", "talks", "two lines", "takes", "fine"]
    cases = [fuzz.Case(name, "test", {"name": name.encode()}) for name in names]
    endings = [one.ending for one in fuzz.run_cases(cases, tmp_path)]
    expected = ["KeyError", "took more than", "read", "SIGSEGV", "wrote to", "not one line", "MemoryError", "read"]
    assert len(endings) == len(expected)
    for ending, part in zip(endings, expected, strict=True):
        assert part in ending


@settings(deadline=None, max_examples=8, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@given(odd_pairs())
def test_odd_images_are_registered_or_refused(files: dict[str, bytes]) -> None:
    folder = Path(os.environ["ODD_PAIRS"])
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with contextlib.suppress(InputError):
        fuzz.READERS["pair"][1][0](folder)


@pytest.fixture(autouse=True)
def folder_of_pairs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_PAIRS", str(tmp_path_factory.mktemp("odd")))


@pytest.mark.parametrize("voxels", [np.zeros((20, 20)), np.full((20, 20), np.nan), np.ones((1, 1))])
def test_images_without_content_are_refused(voxels: np.ndarray) -> None:
    good, bad = ((np.random.default_rng(0).random(voxels.shape), np.eye(3)), (voxels, np.eye(3)))
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(InputError, match=r"every voxel|NaN"):
            register(*pair, model=fuzz.shipped_model())


# --- no code, no path out --------------------------------------------------------------------------------------------


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def payloads(mark: Path) -> list[bytes]:
    """Files that make a file of those who trust them: pickle, NumPy's of objects, YAML, text that is evaluated."""
    array = np.array([Payload(mark)], dtype=object)
    path = mark.with_suffix(".npy")
    np.save(path, array, allow_pickle=True)
    yaml = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]\n"
    python = f"__import__('pathlib').Path('{mark}').touch()\n"
    return [pickle.dumps(Payload(mark)), path.read_bytes(), yaml.encode(), python.encode()]


READERS = {
    **{f"a{suffix}": read_image for suffix in (".nii", ".nii.gz", ".mha", ".nrrd", ".png", ".tif", ".mnc", ".mnc.gz")},
    **{f"b{suffix}": read_step for suffix in (".h5", ".nii.gz")},
    **{f"c{suffix}": read_affine_transform for suffix in (".mat", ".tfm", ".txt", ".lta", ".h5")},
    **{f"d{suffix}": lambda path: read_points(path, 3) for suffix in (".csv", ".fcsv")},
    "pairs.csv": read_pairs,
    "e.yaml": load_config,
    "f.json": lambda path: load_model(str(path)),
    "g.safetensors": load_tensors,
}


@pytest.mark.parametrize("name", READERS)
def test_nothing_in_a_file_is_run(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    for content in payloads(mark):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError):
            READERS[name](tmp_path / name)
        assert not mark.exists()
    pickle.loads(payloads(mark)[0])
    assert mark.exists()  # it would have shown


BARE = {"eval", "exec", "compile", "__import__"}
OWNED = {("os", "system"), ("os", "popen"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load")}
OWNED |= {("torch", "load"), ("np", "load"), ("numpy", "load")}
MODULES = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def test_no_line_of_ours_could_run_what_a_file_says() -> None:
    """No pickle, no unsafe YAML, no evaluation, no shell, no `torch.load` or `np.load`."""
    for path in (ROOT / "src" / "crossmorph").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not ({name.name for name in node.names} | {getattr(node, "module", "")}) & MODULES, path
            if isinstance(node, ast.Call):
                assert getattr(node.func, "id", "") not in BARE, path
                owner = getattr(getattr(node.func, "value", None), "id", "")
                assert (owner, getattr(node.func, "attr", "")) not in OWNED, path
                assert not any(word.arg == "shell" for word in node.keywords), path


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.text(st.sampled_from(list("ab./\\~:$ \t\n\0\u202e")) | st.characters(codec="utf-8"), max_size=12))
def test_outputs_of_a_list_stay_in_their_folder(name: str) -> None:
    """Whatever a pair is called, its files go into one folder of the output folder, or the list is refused."""
    folder = Path(os.environ["ODD_PAIRS"])
    for file in ("m.nii", "f.nii"):
        (folder / file).touch()
    cell = '"' + name.replace('"', '""') + '"'
    (folder / "pairs.csv").write_text(f"name,moving,fixed\n{cell},m.nii,f.nii\n", encoding="utf-8", newline="")
    tasks: list[Task] = []

    def gather(given: list[Task], jobs: int) -> object:
        tasks.extend(given)
        yield from (Entry(task.name, "failed") for task in given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "_by_processes", gather)
        with contextlib.suppress(InputError):
            register_batch(folder / "pairs.csv", folder / "out")
    for task in tasks:
        assert task.folder.parent == folder / "out"
        assert task.folder.resolve().parent == (folder / "out").resolve()


@pytest.mark.parametrize("cell", ["/etc/passwd", "../a.nii", "b/../../a.nii", "~/a.nii", "a\0.nii", "b/../a.nii/.."])
def test_a_list_names_no_file_outside_its_folder(tmp_path: Path, cell: str) -> None:
    (tmp_path / "data" / "b").mkdir(parents=True)
    for file in ("a.nii", "data/f.nii"):
        (tmp_path / file).touch()
    (tmp_path / "data" / "pairs.csv").write_text(f"moving,fixed\n{cell},f.nii\n")
    with pytest.raises(InputError, match=r"leaves the folder|does not exist"):
        read_pairs(tmp_path / "data" / "pairs.csv")


@pytest.mark.slow
def test_the_command_runs(tmp_path: Path) -> None:
    words = ["--cases", "24", "--geometry", "1", "--findings", str(tmp_path / "found")]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "fuzz.py", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "| **all** | 25 |" in done.stdout
    assert not (tmp_path / "found").exists()
