"""What is published: the wheel has all that it needs, and installs and runs where nothing else is."""

import email
import fnmatch
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from email.message import Message
from pathlib import Path

import pytest
from project import ROOT

MOST_WEIGHTS = 15e6  # bytes
PACKAGE = ROOT / "src" / "crossmorph"
# The interpreters in which the wheel is tried; set PYTHONS="python3.12 python3.13" for others.
PYTHONS = os.environ.get("PYTHONS", sys.executable).split()


def run(*words: object, folder: Path) -> str:
    """What a command prints; without what would let it find this source tree."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        list(map(str, words)), cwd=folder, env=clean, capture_output=True, text=True, encoding="utf-8", timeout=1500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_weights_are_small() -> None:
    sizes = [path.stat().st_size for path in PACKAGE.rglob("*.safetensors")]
    assert len(sizes) == 4
    assert 10e6 < sum(sizes) < MOST_WEIGHTS


def test_every_file_of_the_package_is_packaged() -> None:
    """Also where git, which says it as well, is not there."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    files = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix != ".py" and "__pycache__" not in path.parts]
    assert len(files) > 20
    assert [
        path for path in files if not any(fnmatch.fnmatch(path.as_posix(), p) for p in patterns["crossmorph"])
    ] == []


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, folder=folder)
    return folder


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def extras(requirements: Sequence[str]) -> set[str]:
    return {found[1] for line in requirements if (found := re.search(r'extra == "(\w+)"', line))}


@pytest.mark.slow
def test_the_wheel_is_what_pypi_takes(dist: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir(), folder=dist)
    wheel = only(dist, "*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < MOST_WEIGHTS
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert packed == {f"crossmorph/{path.relative_to(PACKAGE).as_posix()}" for path in files}
    about = metadata(wheel)
    assert extras(about.get_all("Requires-Dist", [])) >= {"report", "simulate", "train", "baselines", "monai"}
    page = about.get_payload()
    assert isinstance(page, str)
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) > 10
    assert all(link.startswith("https://") for link in links)
    with zipfile.ZipFile(wheel) as archive:
        (scripts,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert b"crossmorph = crossmorph.cli.main:main" in archive.read(scripts)


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_the_wheel_installs_where_nothing_is_and_runs_the_demo(python: str, dist: Path, tmp_path: Path) -> None:
    wheel = only(dist, "*.whl")
    run(python, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    programs = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    # The versions of constraints.txt are those of one Python; for others pip finds the newest.
    pinned = ["-c", ROOT / "constraints.txt"] if python == sys.executable else []
    # First with nothing optional: a registration works, and what needs more says what.
    run(programs / "python", "-m", "pip", "install", "--quiet", *pinned, wheel, folder=tmp_path)
    assert run(programs / "crossmorph", "models", "list", folder=tmp_path).startswith("any-2d")
    refused = subprocess.run([programs / "crossmorph", "demo"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2
    assert 'pip install "crossmorph[simulate]"' in refused.stderr
    run(programs / "python", "-m", "pip", "install", "--quiet", *pinned, f"{wheel}[report,simulate]", folder=tmp_path)
    printed = run(programs / "crossmorph", "demo", folder=tmp_path)
    assert "Dice mean" in printed
    assert {path.name for path in (tmp_path / "demo").iterdir()} >= {"moved.nii.gz", "transform.h5", "report.html"}
    where = run(programs / "python", "-c", "import crossmorph; print(crossmorph.__file__)", folder=tmp_path)
    assert str(tmp_path / "venv") in where


@pytest.mark.slow
def test_the_version_is_that_of_the_tag(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    run("git", "clone", "--quiet", ROOT, clone, folder=tmp_path)
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    run("git", *who, "tag", "-a", "v9.8.7", "-m", "Version 9.8.7", folder=clone)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, clone, folder=tmp_path)
    assert metadata(only(tmp_path, "*.whl"))["Version"] == "9.8.7"
    run("git", *who, "commit", "--quiet", "--allow-empty", "-m", "After it", folder=clone)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "next", clone, folder=tmp_path)
    assert metadata(only(tmp_path / "next", "*.whl"))["Version"] == "9.8.8.dev1"
