"""The command line: what the user can mend is one line and code 2, and nothing is left behind or touched."""

import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
from examples import check
from project import command
from small_model import save_weights
from typer.testing import CliRunner

from crossmorph.cli import bids_app, main
from crossmorph.cli.option_tables import commands
from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.networks.checkpoint import read_card, shipped_models
from crossmorph.quality.assessment import Assessment
from crossmorph.quality.checks import assess
from crossmorph.workflows import batch, register, register_files


@pytest.fixture(scope="module")
def pair(phantom) -> Pair:
    return read_pairs(phantom / "test" / "pairs.csv")[0]


COMMANDS = dict(commands())


class Result:
    """What a call of the command line printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def crossmorph(monkeypatch, capsys) -> Callable[..., Result]:
    """The command line, in this process."""

    def call(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["crossmorph", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Result(code, *capsys.readouterr())

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nifti(path: Path, data: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), np.diag([1.5, 1.5, 1.5, 1.0])), path)


def spoilt(value: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        data = np.random.default_rng(0).random((32, 32))
        data[3, 4] = value
        nifti(path, data)

    return write


def truncated(path: Path) -> None:
    nifti(path, np.random.default_rng(0).random((64, 64)))
    path.write_bytes(path.read_bytes()[:-2000])


def elsewhere(path: Path) -> None:
    affine = np.diag([1.5, 1.5, 1.0])
    affine[:2, 2] = 400, 300
    write_image(path, Image(np.random.default_rng(0).random((100, 100), np.float32), affine))


BAD_IMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing.nii.gz": (lambda _: None, "cannot be read (No such file"),
    "text.nii.gz": (lambda path: path.write_text("not an image"), "is not a NIfTI file"),
    "text.nii": (lambda path: path.write_text("not an image"), "is not a NIfTI file"),
    "text.png": (lambda path: path.write_text("not an image"), "is not a PNG file"),
    "gzipped-text.nii.gz": (lambda path: path.write_bytes(gzip.compress(b"text")), "is not a NIfTI file"),
    "truncated.nii.gz": (truncated, "is truncated"),
    "nan.nii.gz": (spoilt(np.nan), "1 of 1024 voxels are NaN or infinite"),
    "inf.nii.gz": (spoilt(np.inf), "1 of 1024 voxels are NaN or infinite"),
    "constant.nii.gz": (lambda path: nifti(path, np.full((32, 32), 4.0)), "every voxel is 4"),
    "empty.nii.gz": (lambda path: path.touch(), "is empty"),
    "folder.nii.gz": (lambda path: path.mkdir(), "is a folder"),
    "volume.nii.gz": (lambda path: nifti(path, np.random.rand(9, 8, 7)), "is 3-D, shape (9, 8, 7)"),
    "series.nii.gz": (lambda path: nifti(path, np.random.rand(9, 8, 7, 2)), "has shape (9, 8, 7, 2)"),
    "colour.png": (lambda path: PIL.Image.new("RGB", (32, 32), "red").save(path), "holds colour"),
    "image.jpg": (lambda path: path.write_bytes(b"1"), "unknown image format"),
}


@pytest.mark.parametrize("role", ["moving", "fixed"])
@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_one_line_and_leave_nothing(tmp_path, pair, crossmorph, role, name):
    write, reason = BAD_IMAGES[name]
    write(tmp_path / name)
    good = tmp_path / "good.nii.gz"
    good.write_bytes(pair.moving.read_bytes())
    before = contents(tmp_path)
    images = [tmp_path / name, good] if role == "moving" else [good, tmp_path / name]
    result = crossmorph("register", *images, "-o", tmp_path / "moved.nii.gz", "-t", tmp_path / "t.h5", "--json")
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("crossmorph: ")
    assert result.err.count("\n") == 1
    assert result.err.endswith("\n")
    assert str(tmp_path / name) in result.err
    assert reason in result.err
    assert contents(tmp_path) == before


BAD_OPTIONS: dict[str, tuple[list[str], str]] = {
    "missing folder": (["-o", "nowhere/moved.nii.gz"], "nowhere/moved.nii.gz: the folder nowhere does not exist"),
    "suffix": (["-o", "moved.jpg"], "moved.jpg: unknown image format, expected a name ending in"),
    "transform suffix": (["-o", "moved.nii", "-t", "t.mat"], "t.mat: unknown transform format"),
    "report suffix": (["-o", "moved.nii", "--report", "r.txt"], "r.txt: unknown report format"),
    "output is input": (["-o", "moving.nii.gz"], "moving.nii.gz: wanted as moved, but is also the input"),
    "no output": ([], "register: no output given; expected -o MOVED"),
    "no folder": (["--bids"], "register: no output given; expected -o FOLDER"),
    "start": (
        ["-o", "m.nii.gz", "--init", "far"],
        "--init far: no such file; expected affine, centers, none or the file",
    ),
    "pairs too": (["-o", "m", "--pairs", "p.csv"], "register: --pairs chooses its own files"),
    "bids too": (["-o", "m", "--bids", "-t", "t.h5"], "register: --bids chooses its own files"),
    "twice": (["-o", "m.nii.gz", "--translated", "m.nii.gz"], "m.nii.gz: wanted as translated, but is also"),
    "model": (["-o", "moved.nii", "--model", "best"], "best: no such model; expected one by name (any-2d"),
    "device": (["-o", "moved.nii", "--device", "abacus"], "device abacus: not available here"),
    "labels": (["-o", "moved.nii", "--labels", "moving.nii.gz", "l.nii"], "moving.nii.gz: 16"),
    "missing labels": (["-o", "moved.nii", "--labels", "none.nii", "l.nii"], "none.nii: cannot be read"),
}


@pytest.fixture
def here(tmp_path, pair, monkeypatch) -> Path:
    """A folder to work in, with a pair and its labels."""
    for name in ("moving", "fixed", "moving_labels"):
        (tmp_path / f"{name}.nii.gz").write_bytes(getattr(pair, name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


REGISTER = ("register", "moving.nii.gz", "fixed.nii.gz")


def test_images_that_lie_apart_need_a_start(tmp_path, pair, here, crossmorph):
    elsewhere(tmp_path / "elsewhere.nii.gz")
    words = ["register", str(pair.moving), str(tmp_path / "elsewhere.nii.gz"), "-o", "moved.nii.gz"]
    refused = crossmorph(*words, "--init", "none")
    assert refused.code == 2
    assert "--init centers" in refused.err
    assert "100% after the initial affine" in crossmorph(*words).out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("m.nii", "f.nii", "-o", "o.nii", "--jobs", "2"), "received --jobs; that is for --pairs PAIRS.csv"),
        (("--pairs", "p.csv", "-o", "out", "--json", "--bids"), "received --bids, --json; that is for one pair"),
    ],
)
def test_options_that_would_be_ignored_are_refused(crossmorph, words, reason):
    result = crossmorph("register", *words)
    assert (result.code, result.out) == (2, "")
    assert reason in result.err


def test_refining_and_smoothness_are_checked(here, crossmorph):
    for words, reason in (
        (["--refine", "soon"], "refine 'soon': expected auto, on, off or seconds above 0"),
        (["--refine", "-1"], "refine -1.0: expected auto, on, off or seconds above 0"),
        (["--refine", "nan"], "refine nan: expected"),
    ):
        result = crossmorph(*REGISTER, "-o", "moved.nii.gz", *words)
        assert (result.code, result.out) == (2, "")
        assert reason in result.err
    refined = crossmorph(*REGISTER, "-o", "moved.nii.gz", "--refine", "2", "--json")
    assert json.loads(refined.out)["measures"]["refine_steps"] >= 1


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_one_line_and_leave_nothing(here, crossmorph, name):
    words, reason = BAD_OPTIONS[name]
    before = contents(here)
    result = crossmorph(*REGISTER, *words)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"crossmorph: {reason}")
    assert result.err.count("\n") == 1
    assert contents(here) == before


def test_a_folder_that_cannot_be_written(here, crossmorph, monkeypatch):
    def deny(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", deny)
    result = crossmorph(*REGISTER, "-o", "moved.nii.gz")
    assert (result.code, result.err) == (2, "crossmorph: moved.nii.gz: cannot be written (Permission denied)\n")


@pytest.mark.parametrize(
    "words", [["register", "--nonsense"], ["nonsense"], [*REGISTER, "-o", "m.nii", "--smoothness", "2"]]
)
def test_wrong_usage_is_code_two(here, crossmorph, words):
    result = crossmorph(*words)
    assert (result.code, result.out) == (2, "")
    assert "Usage" in result.err
    assert not (here / "m.nii").exists()


@pytest.mark.parametrize(
    ("words", "received"),
    [([], "no images"), (["-o", "m.nii"], "no images"), (["moving.nii.gz"], "one image, moving.nii.gz")],
)
def test_register_says_which_images_are_missing(here, crossmorph, words, received):
    result = crossmorph("register", *words)
    assert (result.code, result.out) == (2, "")
    expected = f"received {received}; expected MOVING and FIXED, or a list of pairs: --pairs PAIRS.csv"
    assert result.err == f"crossmorph: register: {expected}\n"


def test_translate_writes_the_translation_alone(here, crossmorph):
    result = crossmorph("translate", *REGISTER[1:], "-o", "translated.nii.gz")
    assert (result.code, result.err) == (0, "")
    assert "wrote   translated.nii.gz (translated)" in result.out
    crossmorph(*REGISTER, "-o", "moved.nii.gz", "--translated", "again.nii.gz")
    assert (here / "translated.nii.gz").read_bytes() == (here / "again.nii.gz").read_bytes()


def test_many_pairs_are_registered_once(here, crossmorph):
    (here / "pairs.csv").write_text("moving,fixed\n" + ",".join(REGISTER[1:]) + "\n")
    first = crossmorph("register", "--pairs", "pairs.csv", "-o", "many")
    assert (first.code, first.out.splitlines()[0]) == (0, FIRST)
    assert "0 registered, 1 finished before" in crossmorph("register", "--pairs", "pairs.csv", "-o", "many").out


FIRST = "1 registered, 0 finished before, 0 failed"


def test_the_seconds_are_those_that_the_user_waited(here, crossmorph, monkeypatch):
    read = register_files.read_image
    monkeypatch.setattr(register_files, "read_image", lambda *_, **__: (time.sleep(0.4), read(*_, **__))[1])
    began = time.perf_counter()
    said = crossmorph(*REGISTER, "-o", "moved.nii.gz").out.splitlines()[0]
    waited = time.perf_counter() - began
    seconds = [float(number) for number in re.findall(r"(\d+\.\d\d) s", said)]
    assert 0.8 < seconds[0] < waited
    assert seconds[0] == pytest.approx(sum(seconds[1:]), abs=0.03)
    assert seconds[-1] > 0.8


def test_verify_prints_its_rows(here, crossmorph):
    result = crossmorph("verify", *REGISTER[1:], "--fields", 1)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith("known field (mm)")
    assert [len(re.findall(r"\d\.\d\d\b", line)) for line in lines[2:3]] == [5]
    assert lines[-1].startswith("errors above 2 mm")
    told = json.loads(crossmorph("verify", *REGISTER[1:], "--fields", 1, "--json").out)
    assert [f"{row['size']:6.2f}" for row in told["rows"]] == [line[:6] for line in lines[2:3]]


def test_json_is_one_object(here, crossmorph):
    result = crossmorph(*REGISTER, "-o", "moved.nii.gz", "-t", "t.h5", "--inverse", "inverse.nii.gz", "--json")
    assert (result.code, result.err) == (0, "")
    told = json.loads(result.out)
    assert told["inputs"] == {"moving": "moving.nii.gz", "fixed": "fixed.nii.gz", "model": "any-2d"}
    assert told["outputs"] == [
        {"kind": "moved", "path": "moved.nii.gz"},
        {"kind": "transform", "path": "t.h5"},
        {"kind": "inverse", "path": "inverse.nii.gz"},
        {"kind": "record", "path": "t.json"},
        {"kind": "record", "path": "inverse.json"},
    ]
    assert all(Path(output["path"]).stat().st_size for output in told["outputs"])
    assert told["seconds"] > 0
    assert {type(value) for name, value in told["measures"].items() if name != "unit"} <= {float, int}
    checks = {check["name"]: check["level"] for check in told["checks"]}
    assert checks.items() >= {"mutual information": "passed", "folding": "passed"}.items()
    assert "failed" not in checks.values()


def test_labels_can_be_given_more_than_once(here, crossmorph):
    result = crossmorph(
        *REGISTER,
        "-o",
        "moved.nii.gz",
        "--labels",
        "moving_labels.nii.gz",
        "a.nii.gz",
        "--labels",
        *["moving_labels.nii.gz", "b.nii"],
    )
    assert (result.code, result.err) == (0, "")
    for path in ("moved.nii.gz", "a.nii.gz", "b.nii"):
        assert f"wrote   {path}" in result.out
    a, b = (read_image(path, labels=True).data for path in ("a.nii.gz", "b.nii"))
    assert np.array_equal(a, b)
    assert set(np.unique(a)) == {0, 1, 2, 3}


def failing(*images: object) -> Assessment:
    return assess(*images)._replace(checks=(check("mutual information"),))


def test_a_registration_of_which_a_check_fails_is_code_three(here, crossmorph, monkeypatch):
    monkeypatch.setattr(register, "assess", failing)
    before = contents(here)
    result = crossmorph(*REGISTER, "-o", "moved.nii.gz", "-t", "t.h5", "--json", "--init", "none")
    assert result.code == 3
    told = json.loads(result.out)
    assert (told["outputs"], {each["name"] for each in told["checks"]}) == ([], {"mutual information"})
    failed = "crossmorph: moving.nii.gz to fixed.nii.gz: checks failed (mutual information)"
    assert result.err == f"{failed}; nothing was written; --keep-failed would have kept the outputs\n"
    assert contents(here) == before
    kept = crossmorph(*REGISTER, "-o", "moved.nii.gz", "-t", "t.h5", "--init", "none", "--keep-failed")
    assert (kept.code, kept.err) == (3, f"{failed}; the outputs were written all the same\n")
    assert "wrote   t.json (record)" in kept.out
    assert set(contents(here)) == {*before, "moved.nii.gz", "t.h5", "t.json"}
    words = "crossmorph register moving.nii.gz fixed.nii.gz -o moved.nii.gz -t t.h5 --init none --keep-failed"
    assert json.loads((here / "t.json").read_text())["command"] == words


def test_a_translation_that_fails_its_checks_is_not_written_either(here, crossmorph, monkeypatch):
    monkeypatch.setattr(register, "assess", failing)
    assert crossmorph("translate", *REGISTER[1:], "-o", "t.nii").code == 3
    assert not (here / "t.nii").exists()
    assert crossmorph("translate", *REGISTER[1:], "-o", "t.nii", "--keep-failed").code == 3
    assert (here / "t.nii").exists()


def test_pairs_that_fail_their_checks_are_failed(here, crossmorph, monkeypatch):
    monkeypatch.setattr(batch, "_by_processes", lambda tasks, _: (batch.register_pair(task) for task in tasks))
    monkeypatch.setattr(register, "assess", failing)
    (here / "pairs.csv").write_text("moving,fixed\n" + ",".join(REGISTER[1:]) + "\n")
    result = crossmorph("register", "--pairs", "pairs.csv", "-o", "many")
    assert (result.code, result.out.splitlines()[0]) == (
        3, "0 registered, 0 finished before, 1 failed (1 of them by a check)",
    )  # fmt: skip
    assert "nothing was written; --keep-failed" in (here / "many" / "summary.csv").read_text()


def test_a_process_of_its_own(here):
    """The way a shell sees it: output on stdout, one line on stderr, the exit code."""
    good = command(*REGISTER, "-o", "moved.nii.gz", "--threads", 1, cwd=here)
    assert (good.returncode, good.stderr) == (0, "")
    assert "wrote   moved.nii.gz (moved)" in good.stdout
    bad = command("register", "moving.nii.gz", "absent.nii.gz", "-o", "other.nii.gz", cwd=here)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "crossmorph: absent.nii.gz: cannot be read (No such file or directory)\n"


def test_output_that_cannot_be_printed(here):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "crossmorph", "models", "show"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(30, "Read-only file system", "run"), "run: Read-only file system"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "out of memory: crop or downsample"),
        (RuntimeError("could not create a primitive"), "out of memory: crop or downsample"),
    ],
)
def test_what_the_machine_lacks_is_one_line(crossmorph, monkeypatch, error, said):
    def lacking(*_):
        raise error

    monkeypatch.setattr("crossmorph.networks.checkpoint.find_card", lacking)
    result = crossmorph("models", "show")
    assert result.code == 2
    assert re.fullmatch(f"crossmorph: {said}.*\n", result.err)


def test_other_errors_are_not_hidden(crossmorph, monkeypatch):
    def wrong(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("crossmorph.networks.checkpoint.find_card", wrong)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        crossmorph("models", "show")


def test_the_version(crossmorph):
    result = crossmorph("--version")
    assert (result.code, result.out) == (0, f"crossmorph {metadata.version('crossmorph')}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_has_every_default_and_no_broken_line(name):
    """Defaults that are told by hand in a text get lost in some versions of the parser."""
    program, *words = name.split()
    result = CliRunner().invoke(bids_app.app if program == "crossmorph-bids" else main.app, [*words, "--help"])
    assert result.exit_code == 0
    shown = " ".join(result.output.split())
    command = COMMANDS[name]
    with_default = [
        each for each in command.params
        if each.name != "help" and not getattr(each, "is_flag", False)
        and (each.default not in (None, "") or isinstance(each.show_default, str))
    ]  # fmt: skip
    assert shown.count("[default: ") == len(with_default)
    assert all(each.help and each.help.endswith(".") for each in command.params)
    assert not any("default:" in each.help or each.help.endswith(" .") for each in command.params)


HELP = """
import sys
from crossmorph.cli.main import main
sys.argv = ["crossmorph", *{words}]
try:
    main()
finally:
    every = {{"torch", "numpy", "scipy", "nibabel", "SimpleITK", "matplotlib", "lightning_fabric", "rich.progress"}}
    heavy = every & set(sys.modules)
    print("heavy:", sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize("name", ["", "register", "replay", "doctor", "evaluate", "prepare phantom"])
def test_help_imports_nothing_heavy(name):
    words = [*name.split(), "--help"]
    script = HELP.format(words=words)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "heavy: []\n")
    assert "Usage" in result.stdout


@pytest.mark.parametrize(
    ("wish", "count"), [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_waiting_threads_release_their_cores_unless_set_otherwise(wish, count):
    """The variable is read when PyTorch starts, so it has to be there before."""
    known = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in known} | wish
    script = "import os, sys, crossmorph.cli.main; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    printed = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True, timeout=60)
    assert printed == f"{count} False\n"


def test_models_are_listed_and_shown(crossmorph):
    listed = crossmorph("models", "list")
    assert listed.code == 0
    assert listed.out.startswith("any-2d  Brain slices of any two contrasts")
    shown = crossmorph("models", "show", "any-2d", "--json")
    assert json.loads(shown.out)["name"] == "any-2d"
    assert crossmorph("models", "show", "--json").out == shown.out
    missing = crossmorph("models", "show", "t9")
    assert (missing.code, missing.out) == (2, "")
    assert missing.err.startswith("crossmorph: t9: no such model")


@pytest.mark.parametrize("name", shipped_models())
def test_the_card_of_a_shipped_model_says_what_people_ask(crossmorph, name):
    result = crossmorph("models", "show", name)
    assert (result.code, result.err) == (0, "")
    card = read_card(shipped_models()[name])
    said = " ".join(result.out.split())
    assert said.startswith(f"{name} {card.description}")
    for words in (card.data["source"], card.data["licence"], card.data["cite"], card.sha256, "not a medical device"):
        assert words in said
    assert f"Dice, fine stage: {card.scores['dice_final']:.4f}" in said
    assert f"the checks have limits, set by: crossmorph calibrate {name}" in said
    assert max(map(len, result.out.splitlines())) <= 120


def test_the_card_of_a_model_of_ones_own(tmp_path, crossmorph):
    save_weights(tmp_path / "own", 0)
    said = " ".join(crossmorph("models", "show", tmp_path / "own").out.split())
    assert "small For tests. for slices (2-D images), on a working grid of 1.5 mm one smoothness" in said
    assert "trained on not on the card scores none limits" in said
    assert "no calibration: some checks have no known limit" in said


COMPLETION = """
import sys
from crossmorph.cli.main import main
sys.argv = ["crossmorph"]
try:
    main()
finally:
    print("torch" in sys.modules)
"""


@pytest.mark.parametrize("words", ["register --model any", "models show any", "calibrate any", "evaluate --model any"])
def test_a_shell_completes_names_of_models_without_pytorch(words):
    wish = {"_CROSSMORPH_COMPLETE": "complete_bash", "COMP_WORDS": f"crossmorph {words}"}
    environment = os.environ | wish | {"COMP_CWORD": str(len(words.split()))}
    printed = subprocess.check_output([sys.executable, "-c", COMPLETION], env=environment, text=True, timeout=60)
    assert printed.split() == [*shipped_models(), "False"]


def test_prepare_makes_a_folder_once(tmp_path, crossmorph):
    words = ["prepare", "phantom", "-o", tmp_path / "data", "--train", 2, "--test", 1, "--validation", 1, "--seed", 5]
    made = crossmorph(*words)
    assert (made.code, made.err) == (0, "")
    assert {line.split("/")[-2] for line in made.out.splitlines()} == {"train", "validation", "test"}
    before = contents(tmp_path)
    again = crossmorph(*words)
    assert (again.code, again.out) == (2, "")
    assert again.err.startswith(f"crossmorph: {tmp_path / 'data'} exists and is not an empty folder")
    assert contents(tmp_path) == before


def test_evaluate_prints_a_table_and_writes_every_row(tmp_path, phantom, crossmorph):
    output = tmp_path / "scores.csv"
    methods = ["none", "coarse", "crossmorph", "oracle"]
    result = crossmorph("evaluate", phantom / "test" / "pairs.csv", "-o", output, "--methods", ",".join(methods))
    assert (result.code, result.err) == (0, "")
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["method"] for row in rows] == methods * 3
    dice = {name: np.mean([float(row["dice"]) for row in rows if row["method"] == name]) for name in methods}
    assert dice["none"] < dice["coarse"] <= dice["crossmorph"] < dice["oracle"]
    lines = [line for line in result.out.splitlines() if line.startswith("|")]
    assert [any(line.startswith(f"| {name}") for line in lines) for name in methods] == [True] * 4
    assert result.out.endswith(f"wrote {output}\n")


def test_evaluate_takes_what_the_list_and_the_installation_allow(tmp_path, phantom, crossmorph, monkeypatch):
    def missing(*_):
        raise InputError("antspyx is not installed")

    monkeypatch.setattr("crossmorph.evaluation.baselines.ants.start", missing)
    folder = shutil.copytree(phantom / "test", tmp_path / "test")
    (pair, *_) = read_pairs(folder / "pairs.csv")
    (folder / "own.csv").write_text(f"moving,fixed\n{pair.moving.name},{pair.fixed.name}\n")
    result = crossmorph("evaluate", folder / "own.csv", "-o", tmp_path / "s.csv")
    assert result.code == 0
    assert [line.split()[1] for line in result.out.splitlines()[2:5]] == ["none", "coarse", "crossmorph"]
    left_out = result.err.splitlines()
    assert all(line.startswith("crossmorph: left out: ") for line in left_out)
    assert [line.split(" (")[0].removeprefix("crossmorph: left out: ") for line in left_out] == [
        "affine", "syn", "oracle", "Dice and HD95", "endpoint error", "MSE, NCC, PSNR and SSIM",
    ]  # fmt: skip
    named = crossmorph("evaluate", folder / "own.csv", "-o", tmp_path / "t.csv", "--methods", "none, syn")
    assert (named.code, named.out) == (2, "")
    assert named.err.splitlines()[-1] == "crossmorph: antspyx is not installed"
    assert not (tmp_path / "t.csv").exists()


def test_evaluate_says_what_is_wrong(tmp_path, phantom, crossmorph):
    before = contents(phantom)
    result = crossmorph("evaluate", phantom / "test" / "pairs.csv", "-o", tmp_path / "s.csv", "--methods", "magic")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "magic" in result.err
    assert not contents(tmp_path)
    assert contents(phantom) == before


def test_train_refuses_a_bad_configuration(tmp_path, crossmorph):
    result = crossmorph("train", tmp_path / "absent.yaml")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "absent.yaml" in result.err
